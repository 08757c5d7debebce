//! An API server that answers from a table, for tests of rights.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    body::Body,
    http::{Method, Request, Response, StatusCode},
};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Client,
    core::{Resource, ResourceExt},
};
use serde_json::{Value, json};

use crate::task::PrewarmTask;

/// What the API server knows.
#[derive(Default)]
pub(super) struct Known {
    /// The owner of each token, and the audiences that the token is for.
    pub(super) users: HashMap<String, (String, Vec<String>)>,
    /// User, verb, resource, namespace; no namespace stands for all.
    pub(super) rights: HashSet<(String, String, String, String)>,
    pub(super) tasks: Vec<PrewarmTask>,
    pub(super) secret: Option<Secret>,
    /// Whether it answers nothing but errors.
    pub(super) down: bool,
    /// What it was asked.
    pub(super) asked: Vec<String>,
}

/// A fake API server. Clones share what it knows.
#[derive(Clone, Default)]
pub(super) struct FakeCluster(Arc<Mutex<Known>>);

impl FakeCluster {
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap()
    }

    pub(super) fn user(&self, token: &str, name: &str, audiences: &[&str]) {
        let audiences = audiences.iter().map(|one| (*one).to_owned()).collect();
        self.known().users.insert(token.into(), (name.into(), audiences));
    }

    pub(super) fn allow(&self, user: &str, verb: &str, resource: &str, namespace: &str) {
        self.known().rights.insert((user.into(), verb.into(), resource.into(), namespace.into()));
    }

    pub(super) fn forbid(&self, user: &str, verb: &str, resource: &str, namespace: &str) {
        self.known().rights.remove(&(user.into(), verb.into(), resource.into(), namespace.into()));
    }

    /// How many requests contained these words.
    pub(super) fn count(&self, words: &str) -> usize {
        self.known().asked.iter().filter(|one| one.contains(words)).count()
    }

    pub(super) fn client(&self) -> Client {
        let this = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let this = this.clone();
            async move { Ok::<_, Infallible>(this.answer(request).await) }
        });
        Client::new(service, "default")
    }

    async fn answer(&self, request: Request<kube::client::Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let what = format!("{} {}", parts.method, parts.uri);
        let body: Value = serde_json::from_slice(&body.collect_bytes().await.unwrap()).unwrap_or_default();
        let (path, query) = (parts.uri.path().to_owned(), parts.uri.query().unwrap_or_default().to_owned());
        let down = {
            let mut known = self.known();
            known.asked.push(what);
            known.down
        };
        if down {
            return reply(StatusCode::INTERNAL_SERVER_ERROR, &failure(500, "InternalError"));
        }
        if query.contains("watch=true") {
            return Response::new(Body::from_stream(futures::stream::pending::<Result<bytes::Bytes, Infallible>>()));
        }
        let known = self.known();
        if path.ends_with("/tokenreviews") {
            return reply(StatusCode::CREATED, &known.token_review(body));
        }
        if path.ends_with("/subjectaccessreviews") {
            return reply(StatusCode::CREATED, &known.access_review(body));
        }
        if path.contains("/secrets") {
            let items: Vec<&Secret> = known.secret.iter().collect();
            let list =
                json!({"apiVersion": "v1", "kind": "SecretList", "metadata": {"resourceVersion": "1"}, "items": items});
            return reply(StatusCode::OK, &list);
        }
        if parts.method == Method::GET && path.contains("/prewarmtasks") {
            return known.tasks(&path, &query);
        }
        reply(StatusCode::NOT_FOUND, &failure(404, "NotFound"))
    }
}

impl Known {
    fn token_review(&self, mut review: Value) -> Value {
        let wanted: Vec<String> = serde_json::from_value(review["spec"]["audiences"].clone()).unwrap_or_default();
        let found = self.users.get(review["spec"]["token"].as_str().unwrap_or_default());
        // Without audiences asked for, the API server's own are meant.
        let wanted = if wanted.is_empty() { vec![SERVER.to_owned()] } else { wanted };
        let common =
            |audiences: &[String]| wanted.iter().filter(|one| audiences.contains(one)).cloned().collect::<Vec<_>>();
        review["status"] = match found.map(|(name, audiences)| (name, common(audiences))) {
            Some((name, common)) if !common.is_empty() => json!({"authenticated": true, "audiences": common,
                "user": {"username": name, "uid": format!("uid-{name}"), "groups": ["system:authenticated"]}}),
            _ => json!({"authenticated": false, "error": "invalid bearer token"}),
        };
        review
    }

    fn access_review(&self, mut review: Value) -> Value {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (user, what) = (text(&review["spec"]["user"]), review["spec"]["resourceAttributes"].clone());
        let place = text(&what["namespace"]);
        let may = |place: &str| {
            self.rights.contains(&(user.clone(), text(&what["verb"]), text(&what["resource"]), place.to_owned()))
        };
        review["status"] = json!({"allowed": may(&place) || may("")});
        review
    }

    fn tasks(&self, path: &str, query: &str) -> Response<Body> {
        let parts: BTreeMap<usize, &str> = path.split('/').enumerate().collect();
        if parts.get(&4) == Some(&"namespaces") && parts.contains_key(&7) {
            let found = self
                .tasks
                .iter()
                .find(|task| task.namespace().as_deref() == Some(parts[&5]) && task.name_any() == parts[&7]);
            return match found {
                Some(task) => reply(StatusCode::OK, &serde_json::to_value(task).unwrap()),
                None => reply(StatusCode::NOT_FOUND, &failure(404, "NotFound")),
            };
        }
        let named = |task: &&PrewarmTask| query.contains(&format!("metadata.name%3D{}", task.name_any()));
        let items: Vec<&PrewarmTask> = self.tasks.iter().filter(named).collect();
        let list = json!({"apiVersion": PrewarmTask::api_version(&()), "kind": "PrewarmTaskList",
            "metadata": {"resourceVersion": "1"}, "items": items});
        reply(StatusCode::OK, &list)
    }
}

/// The audience of the API server itself.
pub(super) const SERVER: &str = "https://kubernetes.default.svc.cluster.local";

fn failure(code: u16, reason: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason})
}

fn reply(code: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = code;
    response
}
