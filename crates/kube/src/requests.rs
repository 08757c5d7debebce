//! Count of the requests to the API server: a layer around the Kubernetes client, so that every
//! request of every component is counted at one place.

use std::borrow::Cow;

use http::{Method, Request, Uri};
use kube::{Client, client::Body};
use tower::BoxError;

use crate::{api_contact::ApiContact, metrics::RequestMetrics};

/// Label value of a request that got no response, as in client-go's `rest_client_requests_total`.
const NO_RESPONSE: &str = "<error>";
/// Label value of a request whose caller stopped waiting, for example after its timeout.
const CANCELLED: &str = "<cancelled>";
/// Resource label of a path that names no resource, for example `/version`.
const NON_RESOURCE: &str = "nonresource";

/// Component that sends requests to the API server; the label `component`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    /// Certificates of the managed CA and its Secret.
    Certificates,
    /// Task controller and its watches.
    Controller,
    /// Leader election.
    Election,
    /// Service networks and node addresses, to which no request may be sent.
    Egress,
    /// Probe of the API server for readiness.
    Health,
    /// Informers that every replica runs.
    Informers,
    /// Read-back and creation of tasks from hints.
    Intake,
    /// Checks of nodes before a plan.
    NodeChecks,
    /// Notifications about ended tasks.
    Notifications,
    /// Watch of pod starts.
    PodStarts,
    /// Webhook registration.
    Registration,
    /// REST API and web UI, with token and permission reviews.
    Rest,
    /// Schedules.
    Schedules,
    /// Checks before the start of the other components.
    Startup,
    /// Watch of workloads.
    WorkloadWatch,
}

impl Component {
    fn label(self) -> &'static str {
        match self {
            Self::Certificates => "certificates",
            Self::Controller => "controller",
            Self::Election => "election",
            Self::Egress => "egress",
            Self::Health => "health",
            Self::Informers => "informers",
            Self::Intake => "intake",
            Self::NodeChecks => "node_checks",
            Self::Notifications => "notifications",
            Self::PodStarts => "pod_starts",
            Self::Registration => "registration",
            Self::Rest => "rest",
            Self::Schedules => "schedules",
            Self::Startup => "startup",
            Self::WorkloadWatch => "workload_watch",
        }
    }
}

/// Source of clients that count their requests.
#[derive(Clone)]
pub struct CountingClient {
    client: Client,
    metrics: RequestMetrics,
    contact: ApiContact,
}

impl CountingClient {
    /// Wraps a client, whose connections all components share. Its responses are recorded to
    /// `contact`.
    #[must_use]
    pub fn new(client: Client, metrics: RequestMetrics, contact: ApiContact) -> Self {
        Self { client, metrics, contact }
    }

    /// Returns the time of the last response, which watches of one object record too.
    #[must_use]
    pub fn contact(&self) -> &ApiContact {
        &self.contact
    }

    /// Returns a client whose requests are counted for `component`. Must be called within a runtime,
    /// on which the client queues its requests.
    #[must_use]
    pub fn for_component(&self, component: Component) -> Client {
        let namespace = self.client.default_namespace().to_owned();
        let counting = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let pending = PendingRequest::new(&counting.metrics, component, &request);
            let (client, contact) = (counting.client.clone(), counting.contact.clone());
            async move {
                let response = client.send(request).await;
                if response.as_ref().is_ok_and(|response| !response.status().is_server_error()) {
                    contact.record();
                }
                pending.end(match &response {
                    Ok(response) => Cow::Owned(response.status().as_u16().to_string()),
                    Err(_) => Cow::Borrowed(NO_RESPONSE),
                });
                response.map_err(BoxError::from)
            }
        });
        Client::new(service, namespace)
    }
}

/// Request that is counted when it ends: with its status code, or when its future is dropped.
struct PendingRequest {
    metrics: RequestMetrics,
    component: Component,
    verb: &'static str,
    resource: String,
    code: Cow<'static, str>,
}

impl PendingRequest {
    fn new(metrics: &RequestMetrics, component: Component, request: &Request<Body>) -> Self {
        let (verb, resource) = verb_and_resource(request.method(), request.uri());
        let code = Cow::Borrowed(CANCELLED);
        Self { metrics: metrics.clone(), component, verb, resource, code }
    }

    fn end(mut self, code: Cow<'static, str>) {
        self.code = code;
    }
}

impl Drop for PendingRequest {
    fn drop(&mut self) {
        let labels = [self.component.label(), self.verb, &self.resource, &self.code];
        self.metrics.requests.with_label_values(&labels).inc();
    }
}

/// Returns the verb and the resource, with its subresource, of a request, as the API server's audit
/// log and authorization name them. Names of objects and namespaces are left out: they would make
/// the number of series unlimited.
fn verb_and_resource(method: &Method, uri: &Uri) -> (&'static str, String) {
    let segments: Vec<&str> = uri.path().split('/').filter(|segment| !segment.is_empty()).collect();
    let rest = match segments.as_slice() {
        ["api", _, rest @ ..] | ["apis", _, _, rest @ ..] => rest,
        _ => &[],
    };
    let rest = match rest {
        // `namespaces/NAME/status` is a subresource of the namespace.
        ["namespaces", _, "status" | "finalize", ..] => rest,
        ["namespaces", _, rest @ ..] if !rest.is_empty() => rest,
        _ => rest,
    };
    let (resource, has_name) = match rest {
        [] => (NON_RESOURCE.to_owned(), true),
        [resource] => ((*resource).to_owned(), false),
        [resource, _] => ((*resource).to_owned(), true),
        [resource, _, subresource, ..] => (format!("{resource}/{subresource}"), true),
    };
    let watches =
        uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "watch=true"));
    let verb = match *method {
        Method::GET if watches => "watch",
        Method::GET if has_name => "get",
        Method::GET => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if has_name => "delete",
        Method::DELETE => "deletecollection",
        _ => "other",
    };
    (verb, resource)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Response;
    use k8s_openapi::api::core::v1::{Node, Secret};
    use kube::{Api, api::ListParams};
    use prometheus::Registry;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("GET", "/version", "get", "nonresource")]
    #[case("GET", "/api/v1/nodes?limit=500", "list", "nodes")]
    #[case("GET", "/api/v1/nodes?&watch=true&resourceVersion=1", "watch", "nodes")]
    #[case("GET", "/api/v1/nodes/a/proxy/stats/summary", "get", "nodes/proxy")]
    #[case("GET", "/api/v1/namespaces", "list", "namespaces")]
    #[case("GET", "/api/v1/namespaces/shop", "get", "namespaces")]
    #[case("PUT", "/api/v1/namespaces/shop/status", "update", "namespaces/status")]
    #[case("GET", "/api/v1/namespaces/shop/secrets/pull", "get", "secrets")]
    #[case("POST", "/apis/batch/v1/namespaces/shop/jobs", "create", "jobs")]
    #[case("DELETE", "/apis/batch/v1/namespaces/shop/jobs", "deletecollection", "jobs")]
    #[case("DELETE", "/apis/batch/v1/namespaces/shop/jobs/a", "delete", "jobs")]
    #[case(
        "PATCH",
        "/apis/prewarm.io/v1alpha1/namespaces/shop/prewarmtasks/web/status",
        "patch",
        "prewarmtasks/status"
    )]
    #[case(
        "POST",
        "/apis/authorization.k8s.io/v1/subjectaccessreviews",
        "create",
        "subjectaccessreviews"
    )]
    #[case("OPTIONS", "/", "other", "nonresource")]
    fn labels(
        #[case] method: Method,
        #[case] uri: Uri,
        #[case] verb: &str,
        #[case] resource: &str,
    ) {
        assert_eq!(verb_and_resource(&method, &uri), (verb, resource.to_owned()));
    }

    fn count(metrics: &RequestMetrics, labels: [&str; 4]) -> u64 {
        metrics.requests.with_label_values(&labels).get()
    }

    fn counting(client: Client) -> (CountingClient, RequestMetrics) {
        let metrics = RequestMetrics::register(&Registry::new()).unwrap();
        (CountingClient::new(client, metrics.clone(), ApiContact::default()), metrics)
    }

    #[tokio::test]
    async fn a_refused_request_is_counted_by_component_and_code_and_its_error_is_kept() {
        let refuse = tower::service_fn(|_: Request<Body>| async {
            let body = br#"{"kind":"Status","status":"Failure","reason":"Forbidden","code":403}"#;
            Ok::<_, BoxError>(Response::builder().status(403).body(Body::from(body.to_vec()))?)
        });
        let (clients, metrics) = counting(Client::new(refuse, "default"));
        let nodes = Api::<Node>::all(clients.for_component(Component::Rest));
        let error = nodes.list(&ListParams::default()).await.unwrap_err();
        assert!(matches!(error, kube::Error::Api(status) if status.code == 403));
        assert_eq!(count(&metrics, ["rest", "list", "nodes", "403"]), 1);
    }

    #[tokio::test]
    async fn a_request_without_a_response_is_counted() {
        let closed = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let (clients, metrics) = counting(Client::try_from(closed).unwrap());
        let secrets = Api::<Secret>::namespaced(clients.for_component(Component::Intake), "shop");
        assert!(secrets.get("pull").await.is_err());
        assert_eq!(count(&metrics, ["intake", "get", "secrets", NO_RESPONSE]), 1);
    }

    #[tokio::test]
    async fn a_request_that_times_out_at_its_caller_is_counted() {
        let silent = tower::service_fn(|_: Request<Body>| {
            std::future::pending::<Result<Response<Body>, BoxError>>()
        });
        let (clients, metrics) = counting(Client::new(silent, "default"));
        let nodes = Api::<Node>::all(clients.for_component(Component::Egress));
        let asked = nodes.get("a");
        assert!(tokio::time::timeout(Duration::from_millis(50), asked).await.is_err());
        assert_eq!(count(&metrics, ["egress", "get", "nodes", CANCELLED]), 1);
    }
}
