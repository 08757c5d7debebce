//! Calls of the REST API, as a client makes them.

use std::time::{Duration, Instant};

use reqwest::{
    Client, Method, RequestBuilder,
    header::{HeaderMap, HeaderName},
};
use serde_json::{Value, json};

use crate::harness::{Cluster, Namespace, Server};

/// A caller with a token, or without.
#[derive(Clone)]
pub struct Caller {
    client: Client,
    base: String,
    token: String,
}

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        let name: HeaderName = name.parse().unwrap();
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The names of the fields that were wrong.
    pub fn wrong(&self) -> Vec<&str> {
        let mut fields: Vec<&str> =
            self.body["details"].as_array().unwrap().iter().map(|detail| detail["field"].as_str().unwrap()).collect();
        fields.sort_unstable();
        fields
    }
}

/// A token of Kubernetes for a new account that may do these verbs to tasks and schedules of the namespace.
pub fn token(namespace: &Namespace, account: &str, verbs: &[&str]) -> String {
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": account},
        "rules": [{"apiGroups": ["prewarm.io"], "resources": ["prewarmtasks", "prewarmschedules"], "verbs": verbs}]});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": account},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": account},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace.name}]});
    let account_object = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}});
    namespace.apply(&json!({"apiVersion": "v1", "kind": "List", "items": [account_object, role, binding]}));
    // The API server's authorizer learns of a new role by a watch, a moment later.
    let whom = format!("--as=system:serviceaccount:{}:{account}", namespace.name);
    if let Some(verb) = verbs.first() {
        let ask = ["-n", &namespace.name, "auth", "can-i", *verb, "prewarmtasks.prewarm.io", &whom];
        let begun = Instant::now();
        while !namespace.cluster.try_kubectl(&ask, "").0 {
            assert!(begun.elapsed() < Duration::from_secs(30), "{account} may not {verb} tasks");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    // An hour, which is the default, is shorter than the longest test.
    let words = ["create", "token", account, "--audience", "prewarmer", "--duration", "3h"];
    namespace.kubectl(&words, "").trim().to_owned()
}

/// The same, and that account may list the cluster's nodes too. To be taken back by [`forget_nodes`].
pub fn token_for_nodes(cluster: &Cluster, namespace: &Namespace, account: &str, verbs: &[&str]) -> String {
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": namespace.name}, "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}]});
    cluster.kubectl(&["apply", "-f", "-"], &role.to_string());
    let token = token(namespace, account, verbs);
    let whom = format!("--serviceaccount={}:{account}", namespace.name);
    let binding = ["create", "clusterrolebinding", &namespace.name, "--clusterrole", &namespace.name, &whom];
    cluster.kubectl(&binding, "");
    token
}

/// Takes the right to list nodes back.
pub fn forget_nodes(cluster: &Cluster, namespace: &Namespace) {
    cluster.kubectl(&["delete", "clusterrole,clusterrolebinding", &namespace.name], "");
}

impl Caller {
    pub fn new(server: &Server, token: &str) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap();
        Self { client, base: format!("http://{}/api/v1", server.api()), token: token.to_owned() }
    }

    /// One who calls by TLS, and trusts a CA given in base64.
    pub fn trusting(url: &str, ca: &str, token: &str) -> Self {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let ca = reqwest::Certificate::from_pem(&STANDARD.decode(ca.trim()).unwrap()).unwrap();
        let client =
            Client::builder().no_proxy().timeout(Duration::from_secs(60)).tls_certs_only([ca]).build().unwrap();
        Self { client, base: format!("{url}/api/v1"), token: token.to_owned() }
    }

    /// One who may do everything in the namespace.
    pub fn editor(server: &Server, namespace: &Namespace) -> Self {
        Self::new(server, &token(namespace, "editor", &["*"]))
    }

    pub fn with(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    /// The same caller at another replica.
    pub fn at(&self, server: &Server) -> Self {
        Self { base: format!("http://{}/api/v1", server.api()), ..self.clone() }
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    pub fn secret(&self) -> &str {
        &self.token
    }

    /// A request with the token.
    pub fn request(&self, method: &str, path: &str) -> RequestBuilder {
        let method: Method = method.parse().unwrap();
        let request = self.client.request(method, format!("{}{path}", self.base));
        if self.token.is_empty() { request } else { request.bearer_auth(&self.token) }
    }

    /// A request for a page outside of the API, without the token.
    pub fn get_page(&self, url: &str) -> RequestBuilder {
        self.client.get(url)
    }

    pub async fn send(&self, request: RequestBuilder) -> Answer {
        let answer = request.send().await.unwrap();
        let (code, headers) = (answer.status().as_u16(), answer.headers().clone());
        let text = answer.text().await.unwrap();
        Answer { code, headers, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request("GET", path)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.request("DELETE", path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request("POST", path).json(body)).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request("PUT", path).json(body)).await
    }

    /// Makes a task; its id.
    pub async fn task(&self, body: &Value) -> String {
        let answer = self.post("/tasks", body).await;
        assert_eq!(answer.code, 201, "{answer:?}");
        answer.body["taskId"].as_str().unwrap().to_owned()
    }
}
