//! Requests to the API server. Nothing is changed: objects are created by dry run only.

use std::collections::BTreeMap;

use http::{Request, Response};
use jiff::{Timestamp, fmt::rfc2822};
use k8s_openapi::{
    api::{
        admissionregistration::v1::{
            ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration,
        },
        apps::v1::Deployment,
        authorization::v1::{
            ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
            SubjectAccessReview, SubjectAccessReviewSpec,
        },
        coordination::v1::Lease,
        core::v1::ServiceAccount,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::version::Info,
};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
    client::Body,
    core::Status,
};
use prewarmer_core::{
    node::{Interner, NodeInfo},
    slim::SlimNode,
    task::PrewarmTask,
};
use prewarmer_kube::list::{NO_LIMIT, list_all};
use serde_json::Value;

use super::{
    dry_run::{sample_review, sample_worker},
    foreign::find_foreign,
    results::{
        ApiServerInfo, ClusterResults, DeploymentState, LeaseHolder, QueryResult,
        RegisteredWebhooks,
    },
    settings::DoctorSettings,
};
use crate::scope::scoped;

/// Custom resource definitions of an installation.
pub(super) const CRD_NAMES: [&str; 3] =
    ["prewarmtasks.prewarm.io", "prewarmplans.prewarm.io", "prewarmschedules.prewarm.io"];
/// Permissions to create that an installation requires: group, resource.
const INSTALL_RESOURCES: [(&str, &str); 8] = [
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
    ("scheduling.k8s.io", "priorityclasses"),
    ("apps", "deployments"),
    ("", "secrets"),
];
/// Permissions that the account of the controller requires: verb, group, resource.
const CONTROLLER_PERMISSIONS: [(&str, &str, &str); 9] = [
    ("list", "", "nodes"),
    ("create", "batch", "jobs"),
    ("delete", "batch", "jobs"),
    ("list", "", "pods"),
    ("create", "", "events"),
    ("create", "prewarm.io", "prewarmtasks"),
    ("create", "prewarm.io", "prewarmplans"),
    ("watch", "apps", "deployments"),
    ("patch", "prewarm.io", "prewarmtasks"),
];
/// Permissions that the account of the webhook requires, where it is a separate one.
const ADMISSION_PERMISSIONS: [(&str, &str, &str); 3] = [
    ("get", "apps", "deployments"),
    ("create", "prewarm.io", "prewarmtasks"),
    ("watch", "prewarm.io", "prewarmtasks"),
];
/// Largest number of tasks whose failures are counted.
const MAX_TASKS: u32 = 200;

/// Sends all requests that the checks need.
pub(super) async fn collect(client: &Client, asked: &DoctorSettings) -> ClusterResults {
    let installed = !asked.pre;
    let name = asked.object_name.as_str();
    let nodes = nodes(client).await;
    let mut definitions = BTreeMap::new();
    for definition in CRD_NAMES {
        definitions.insert(definition.to_owned(), definition_of(client, definition).await);
    }
    let mut answers = ClusterResults {
        server: server(client).await,
        nodes,
        definitions,
        ..ClusterResults::unanswered(Timestamp::now())
    };
    for namespace in &asked.namespaces {
        answers.workers.push((namespace.clone(), sample_worker(client, namespace, asked).await));
    }
    if !installed {
        for (group, resource) in INSTALL_RESOURCES {
            answers.own_permissions.push((
                format!("create {resource}"),
                check_permission(client, None, "create", group, resource).await,
            ));
        }
        return answers;
    }
    answers.deployment = deployment(client, asked, name).await;
    answers.controller = deployment(client, asked, &format!("{name}-controller")).await;
    let watched = asked.watch_namespace.as_deref();
    let split = answers.controller.found().is_some();
    answers.server_permissions = server_permissions(client, asked, split).await;
    answers.lease = lease(client, asked).await;
    answers.webhook = webhook(client, name).await;
    let path = format!(
        "/api/v1/namespaces/{}/services/http:{name}-metrics:metrics/proxy/readyz",
        asked.namespace
    );
    answers.readiness = readiness(client, &path).await;
    answers.fence_policies =
        count_bound(client, ["pods", "jobs", "deletions"].map(|part| format!("{name}-{part}")))
            .await;
    answers.reserved_policies = count_bound(
        client,
        ["pods", "jobs", "plans"].map(|part| format!("{name}-reserved-{part}")),
    )
    .await;
    answers.foreign = find_foreign(client, asked).await;
    answers.worker_secrets =
        worker_secrets(client, &asked.namespace, &format!("{name}-worker")).await;
    answers.sample_review = sample_review(client, watched.unwrap_or(&asked.review_in)).await;
    answers.failures = failures(client, watched).await;
    answers
}

async fn get(client: &Client, path: &str) -> kube::Result<Response<Body>> {
    let request = Request::get(path).body(Body::empty()).map_err(kube::Error::HttpError)?;
    client.send(request).await
}

async fn server(client: &Client) -> QueryResult<ApiServerInfo> {
    let asked = async {
        let response = get(client, "/version").await?;
        let date =
            response.headers().get("date").and_then(|date| date.to_str().ok()).map(str::to_owned);
        let ours = Timestamp::now();
        let body = response.into_body().collect_bytes().await?;
        let info: Info = serde_json::from_slice(&body).map_err(kube::Error::SerdeError)?;
        let number = |text: &str| {
            text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or_default()
        };
        let theirs =
            date.and_then(|date| rfc2822::parse(&date).ok()).map(|zoned| zoned.timestamp());
        Ok(ApiServerInfo {
            version: (number(&info.major), number(&info.minor)),
            text: info.git_version,
            clocks: theirs.map(|theirs| (theirs, ours)),
        })
    };
    QueryResult::from_result(asked.await)
}

async fn nodes(client: &Client) -> QueryResult<Vec<NodeInfo>> {
    let texts = Interner::default();
    let nodes = Api::<SlimNode>::all(client.clone());
    let list = list_all(&nodes, ListParams::default(), NO_LIMIT).await;
    QueryResult::from_result(list)
        .map(|list| list.iter().map(|node| NodeInfo::new(node, &texts)).collect())
}

async fn definition_of(client: &Client, name: &str) -> QueryResult<Value> {
    let found = Api::<CustomResourceDefinition>::all(client.clone()).get(name).await;
    QueryResult::from_result(found)
        .map(|definition| serde_json::to_value(definition).unwrap_or_default())
}

/// Checks a permission of a user, or of the caller where no user is given.
async fn check_permission(
    client: &Client,
    whom: Option<(&str, Option<&str>)>,
    verb: &str,
    group: &str,
    resource: &str,
) -> QueryResult<bool> {
    let attributes = ResourceAttributes {
        verb: Some(verb.into()),
        group: Some(group.into()),
        resource: Some(resource.into()),
        namespace: whom.and_then(|(_, namespace)| namespace.map(str::to_owned)),
        ..ResourceAttributes::default()
    };
    let status = if let Some((user, _)) = whom {
        let spec = SubjectAccessReviewSpec {
            user: Some(user.into()),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        Api::all(client.clone())
            .create(&PostParams::default(), &review)
            .await
            .map(|review| review.status)
    } else {
        let spec = SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        };
        let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
        Api::all(client.clone())
            .create(&PostParams::default(), &review)
            .await
            .map(|review| review.status)
    };
    QueryResult::from_result(status).map(|status| status.is_some_and(|status| status.allowed))
}

/// Checks the permissions of the server's accounts. `split`: whether the controller has a Deployment
/// and an account of its own; otherwise one account has all permissions.
async fn server_permissions(
    client: &Client,
    asked: &DoctorSettings,
    split: bool,
) -> Vec<(String, QueryResult<bool>)> {
    let (name, watched) = (asked.object_name.as_str(), asked.watch_namespace.as_deref());
    let controller = format!("{name}-controller");
    let worker_account = if split { controller.as_str() } else { name };
    let front = if split { &ADMISSION_PERMISSIONS[..] } else { &[] };
    let mut permissions = Vec::new();
    for (account, rights) in [(worker_account, &CONTROLLER_PERMISSIONS[..]), (name, front)] {
        let user = format!("system:serviceaccount:{}:{account}", asked.namespace);
        for (verb, group, resource) in rights {
            let place = watched.filter(|_| *resource != "nodes");
            let right = check_permission(client, Some((&user, place)), verb, group, resource).await;
            permissions.push((format!("{account}: {verb} {resource}"), right));
        }
    }
    permissions
}

async fn deployment(
    client: &Client,
    asked: &DoctorSettings,
    name: &str,
) -> QueryResult<DeploymentState> {
    let found = Api::<Deployment>::namespaced(client.clone(), &asked.namespace).get(name).await;
    QueryResult::from_result(found).map(|deployment| {
        let spec = deployment.spec;
        let container = spec
            .template
            .spec
            .and_then(|pod| pod.containers.into_iter().next())
            .unwrap_or_default();
        DeploymentState {
            desired: spec.replicas.unwrap_or(1),
            ready: deployment.status.and_then(|status| status.ready_replicas).unwrap_or_default(),
            image: container.image.unwrap_or_default(),
        }
    })
}

async fn lease(client: &Client, asked: &DoctorSettings) -> QueryResult<LeaseHolder> {
    let found =
        Api::<Lease>::namespaced(client.clone(), &asked.namespace).get(&asked.object_name).await;
    QueryResult::from_result(found).map(|lease| {
        let spec = lease.spec.unwrap_or_default();
        LeaseHolder {
            holder: spec.holder_identity.unwrap_or_default(),
            renewed: spec.renew_time.map(|time| time.0),
        }
    })
}

async fn webhook(client: &Client, name: &str) -> QueryResult<RegisteredWebhooks> {
    let found = Api::<ValidatingWebhookConfiguration>::all(client.clone()).get(name).await;
    QueryResult::from_result(found).map(|configuration| {
        let webhooks = configuration.webhooks.unwrap_or_default();
        let has_ca = |ca: &k8s_openapi::ByteString| !ca.0.is_empty();
        let trusted = webhooks
            .iter()
            .all(|webhook| webhook.client_config.ca_bundle.as_ref().is_some_and(has_ca));
        RegisteredWebhooks { trusted, webhooks: webhooks.len() }
    })
}

/// Reads the readiness of one server pod through the Service. A response with status 503 is used
/// too.
async fn readiness(client: &Client, path: &str) -> QueryResult<Value> {
    let asked = async {
        let response = get(client, path).await?;
        let code = response.status();
        let bytes = response.into_body().collect_bytes().await?;
        let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if body["waitingFor"].is_array() {
            return Ok(body);
        }
        let message = body["message"]
            .as_str()
            .unwrap_or("unexpected response, not from Prewarmer")
            .to_owned();
        let status = Status { code: code.as_u16(), message, ..Status::default() };
        Err(kube::Error::Api(Box::new(status)))
    };
    QueryResult::from_result(asked.await)
}

/// Counts the policies of these names that are bound.
async fn count_bound(client: &Client, policies: [String; 3]) -> QueryResult<usize> {
    let list = Api::<ValidatingAdmissionPolicyBinding>::all(client.clone())
        .list(&ListParams::default())
        .await;
    let is_ours =
        |binding: &&ValidatingAdmissionPolicyBinding| policies.contains(&binding.spec.policy_name);
    QueryResult::from_result(list).map(|list| list.items.iter().filter(is_ours).count())
}

async fn worker_secrets(
    client: &Client,
    namespace: &str,
    account: &str,
) -> QueryResult<Vec<String>> {
    let found = Api::<ServiceAccount>::namespaced(client.clone(), namespace).get(account).await;
    QueryResult::from_result(found).map(|account| {
        account
            .image_pull_secrets
            .unwrap_or_default()
            .into_iter()
            .map(|secret| secret.name)
            .collect()
    })
}

/// Counts the failed nodes of existing tasks, by reason.
async fn failures(client: &Client, namespace: Option<&str>) -> QueryResult<BTreeMap<String, u32>> {
    let tasks = scoped::<PrewarmTask>(client, namespace);
    let list = tasks.list(&ListParams::default().limit(MAX_TASKS)).await;
    QueryResult::from_result(list).map(|list| {
        let mut reasons = BTreeMap::new();
        let failed = list
            .items
            .iter()
            .filter_map(|task| task.status.as_ref())
            .flat_map(|status| &status.failed_nodes);
        for node in failed {
            *reasons.entry(node.reason.clone()).or_insert(0) += 1;
        }
        reasons
    })
}
