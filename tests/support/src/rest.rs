//! Client of the REST API.

use std::time::{Duration, Instant};

use reqwest::{
    Client, Method, RequestBuilder,
    header::{HeaderMap, HeaderName},
};
use serde_json::{Value, json};

use crate::{cluster::Cluster, namespace::Namespace, server::Server};

/// REST client with an optional bearer token.
#[derive(Clone)]
pub struct RestClient {
    client: Client,
    base: String,
    token: String,
}

/// Response of the REST API.
#[derive(Debug)]
pub struct RestResponse {
    /// HTTP status code.
    pub code: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// JSON body, or a JSON string if the response is not JSON.
    pub body: Value,
}

impl RestResponse {
    /// Returns a header, or an empty string if it is not set.
    pub fn header(&self, name: &str) -> &str {
        let name: HeaderName = name.parse().unwrap();
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Returns the sorted names of the rejected fields.
    pub fn invalid_fields(&self) -> Vec<&str> {
        let mut fields: Vec<&str> = self.body["details"]
            .as_array()
            .unwrap()
            .iter()
            .map(|detail| detail["field"].as_str().unwrap())
            .collect();
        fields.sort_unstable();
        fields
    }
}

/// Creates an account with these verbs on the namespace's tasks and schedules and returns a
/// Kubernetes token for it.
pub fn account_token(namespace: &Namespace, account: &str, verbs: &[&str]) -> String {
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": account},
        "rules": [{"apiGroups": ["prewarm.io"], "resources": ["prewarmtasks", "prewarmschedules"], "verbs": verbs}]});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": account},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": account},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace.name}]});
    let account_object =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}});
    namespace.apply(
        &json!({"apiVersion": "v1", "kind": "List", "items": [account_object, role, binding]}),
    );
    // The API server's authorizer sees a new role only after its own watch delivers it.
    let whom = format!("--as=system:serviceaccount:{}:{account}", namespace.name);
    if let Some(verb) = verbs.first() {
        let ask = ["-n", &namespace.name, "auth", "can-i", *verb, "prewarmtasks.prewarm.io", &whom];
        let begun = Instant::now();
        while !namespace.cluster.try_kubectl(&ask, "").0 {
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "{account} is not permitted to {verb} tasks"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    // The default of one hour is shorter than the longest test.
    let words = ["create", "token", account, "--audience", "prewarmer", "--duration", "3h"];
    namespace.kubectl(&words, "").trim().to_owned()
}

/// Does the same as [`account_token`] for an account that may also list the cluster's nodes.
/// [`delete_node_permission`] deletes the cluster-wide grant.
pub fn account_token_with_nodes(
    cluster: &Cluster,
    namespace: &Namespace,
    account: &str,
    verbs: &[&str],
) -> String {
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": namespace.name}, "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}]});
    cluster.kubectl(&["apply", "-f", "-"], &role.to_string());
    let token = account_token(namespace, account, verbs);
    let whom = format!("--serviceaccount={}:{account}", namespace.name);
    let binding =
        ["create", "clusterrolebinding", &namespace.name, "--clusterrole", &namespace.name, &whom];
    cluster.kubectl(&binding, "");
    token
}

/// Deletes the permission to list nodes.
pub fn delete_node_permission(cluster: &Cluster, namespace: &Namespace) {
    cluster.kubectl(&["delete", "clusterrole,clusterrolebinding", &namespace.name], "");
}

impl RestClient {
    /// Creates a client of the plain HTTP listener. An empty token is not sent.
    pub fn new(server: &Server, token: &str) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap();
        Self { client, base: format!("http://{}/api/v1", server.api()), token: token.to_owned() }
    }

    /// Creates a client that uses TLS and trusts only the CA, given as base64 of PEM.
    pub fn with_ca(url: &str, ca: &str, token: &str) -> Self {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let ca = reqwest::Certificate::from_pem(&STANDARD.decode(ca.trim()).unwrap()).unwrap();
        let client = Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(60))
            .tls_certs_only([ca])
            .build()
            .unwrap();
        Self { client, base: format!("{url}/api/v1"), token: token.to_owned() }
    }

    /// Creates a client with all permissions in the namespace.
    pub fn editor(server: &Server, namespace: &Namespace) -> Self {
        Self::new(server, &account_token(namespace, "editor", &["*"]))
    }

    /// Returns a client with another token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    /// Returns a client with the same token for another replica.
    #[must_use]
    pub fn for_replica(&self, server: &Server) -> Self {
        Self { base: format!("http://{}/api/v1", server.api()), ..self.clone() }
    }

    /// Returns the URL that all paths of the API are relative to.
    pub fn base_url(&self) -> &str {
        &self.base
    }

    /// Returns the token.
    pub fn bearer_token(&self) -> &str {
        &self.token
    }

    /// Builds a request with the token.
    pub fn request(&self, method: &str, path: &str) -> RequestBuilder {
        let method: Method = method.parse().unwrap();
        let request = self.client.request(method, format!("{}{path}", self.base));
        if self.token.is_empty() { request } else { request.bearer_auth(&self.token) }
    }

    /// Builds a request for a URL outside the API, without the token.
    pub fn get_page(&self, url: &str) -> RequestBuilder {
        self.client.get(url)
    }

    /// Sends a request and reads the response.
    pub async fn send(&self, request: RequestBuilder) -> RestResponse {
        let answer = request.send().await.unwrap();
        let (code, headers) = (answer.status().as_u16(), answer.headers().clone());
        let text = answer.text().await.unwrap();
        RestResponse {
            code,
            headers,
            body: serde_json::from_str(&text).unwrap_or(Value::String(text)),
        }
    }

    /// Sends a GET request.
    pub async fn get(&self, path: &str) -> RestResponse {
        self.send(self.request("GET", path)).await
    }

    /// Sends a DELETE request.
    pub async fn delete(&self, path: &str) -> RestResponse {
        self.send(self.request("DELETE", path)).await
    }

    /// Sends a POST request with a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> RestResponse {
        self.send(self.request("POST", path).json(body)).await
    }

    /// Sends a PUT request with a JSON body.
    pub async fn put(&self, path: &str, body: &Value) -> RestResponse {
        self.send(self.request("PUT", path).json(body)).await
    }

    /// Creates a task and returns its ID.
    pub async fn create_task(&self, body: &Value) -> String {
        let answer = self.post("/tasks", body).await;
        assert_eq!(answer.code, 201, "{answer:?}");
        answer.body["taskId"].as_str().unwrap().to_owned()
    }
}
