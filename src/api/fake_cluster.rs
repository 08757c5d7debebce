//! Fake API server that responds from a table, for tests of permissions.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    body::Body,
    http::{Method, Request, Response, StatusCode},
};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Secret};
use kube::{
    Client,
    core::{Resource, ResourceExt},
};
use serde_json::{Value, json};

use prewarmer_core::task::{PrewarmPlan, PrewarmTask};

/// State of the fake API server.
#[derive(Default)]
pub(super) struct FakeState {
    /// User and audiences of each token.
    pub(super) users: HashMap<String, (String, Vec<String>)>,
    /// User, verb, resource, namespace; an empty namespace means all namespaces.
    pub(super) permissions: HashSet<(String, String, String, String)>,
    pub(super) tasks: Vec<PrewarmTask>,
    pub(super) schedules: Vec<Value>,
    /// Number of replacements of a schedule that conflict with a change of another client.
    pub(super) schedule_conflicts: usize,
    /// Plan that each list of plans returns.
    pub(super) plan: Option<PrewarmPlan>,
    /// Lease of each name.
    pub(super) leases: BTreeMap<String, Lease>,
    pub(super) secret: Option<Secret>,
    /// True when every request fails with 500.
    pub(super) unavailable: bool,
    /// Method and URI of each request received.
    pub(super) requests: Vec<String>,
}

/// Fake API server. Clones share its state.
#[derive(Clone, Default)]
pub(super) struct FakeCluster(Arc<Mutex<FakeState>>);

impl FakeCluster {
    pub(super) fn state(&self) -> MutexGuard<'_, FakeState> {
        self.0.lock().unwrap()
    }

    pub(super) fn add_user(&self, token: &str, name: &str, audiences: &[&str]) {
        let audiences = audiences.iter().map(|one| (*one).to_owned()).collect();
        self.state().users.insert(token.into(), (name.into(), audiences));
    }

    pub(super) fn allow(&self, user: &str, verb: &str, resource: &str, namespace: &str) {
        self.state().permissions.insert((
            user.into(),
            verb.into(),
            resource.into(),
            namespace.into(),
        ));
    }

    pub(super) fn revoke(&self, user: &str, verb: &str, resource: &str, namespace: &str) {
        self.state().permissions.remove(&(
            user.into(),
            verb.into(),
            resource.into(),
            namespace.into(),
        ));
    }

    /// Returns the number of requests that contain this text.
    pub(super) fn count_requests(&self, words: &str) -> usize {
        self.state().requests.iter().filter(|one| one.contains(words)).count()
    }

    pub(super) fn client(&self) -> Client {
        let this = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let this = this.clone();
            async move { Ok::<_, Infallible>(this.respond(request).await) }
        });
        Client::new(service, "default")
    }

    async fn respond(&self, request: Request<kube::client::Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let what = format!("{} {}", parts.method, parts.uri);
        let body: Value =
            serde_json::from_slice(&body.collect_bytes().await.unwrap()).unwrap_or_default();
        let (path, query) =
            (parts.uri.path().to_owned(), parts.uri.query().unwrap_or_default().to_owned());
        let down = {
            let mut known = self.state();
            known.requests.push(what);
            known.unavailable
        };
        if down {
            return reply(StatusCode::INTERNAL_SERVER_ERROR, &status_json(500, "InternalError"));
        }
        if query.contains("watch=true") {
            return Response::new(Body::from_stream(futures::stream::pending::<
                Result<bytes::Bytes, Infallible>,
            >()));
        }
        let mut known = self.state();
        if path.ends_with("/tokenreviews") {
            return reply(StatusCode::CREATED, &known.token_review(body));
        }
        if path.ends_with("/subjectaccessreviews") {
            return reply(StatusCode::CREATED, &known.access_review(body));
        }
        if path.contains("/secrets") {
            let items: Vec<&Secret> = known.secret.iter().collect();
            let list = json!({"apiVersion": "v1", "kind": "SecretList", "metadata": {"resourceVersion": "1"}, "items": items});
            return reply(StatusCode::OK, &list);
        }
        if parts.method == Method::GET && path.contains("/prewarmtasks") {
            return known.get_or_list_tasks(&path, &query);
        }
        if parts.method == Method::POST && path.ends_with("/prewarmtasks") {
            known.tasks.push(serde_json::from_value(body.clone()).unwrap());
            return reply(StatusCode::CREATED, &body);
        }
        if path.contains("/prewarmschedules") {
            return known.answer_schedule(&parts.method, &path, &query, body);
        }
        if path.ends_with("/prewarmplans") {
            let items: Vec<&PrewarmPlan> = known.plan.iter().collect();
            let list = json!({"apiVersion": PrewarmPlan::api_version(&()), "kind": "PrewarmPlanList", "metadata": {"resourceVersion": "1"}, "items": items});
            return reply(StatusCode::OK, &list);
        }
        if let Some((_, name)) = path.split_once("/leases") {
            return known.answer_lease(&parts.method, name.trim_start_matches('/'), body);
        }
        reply(StatusCode::NOT_FOUND, &status_json(404, "NotFound"))
    }
}

impl FakeState {
    fn token_review(&self, mut review: Value) -> Value {
        let wanted: Vec<String> =
            serde_json::from_value(review["spec"]["audiences"].clone()).unwrap_or_default();
        let found = self.users.get(review["spec"]["token"].as_str().unwrap_or_default());
        // A review without audiences is for the API server's own.
        let wanted = if wanted.is_empty() { vec![API_SERVER_AUDIENCE.to_owned()] } else { wanted };
        let common = |audiences: &[String]| {
            wanted.iter().filter(|one| audiences.contains(one)).cloned().collect::<Vec<_>>()
        };
        review["status"] = match found.map(|(name, audiences)| (name, common(audiences))) {
            Some((name, common)) if !common.is_empty() => {
                json!({"authenticated": true, "audiences": common,
                "user": {"username": name, "uid": format!("uid-{name}"), "groups": ["system:authenticated"]}})
            }
            _ => json!({"authenticated": false, "error": "invalid bearer token"}),
        };
        review
    }

    fn access_review(&self, mut review: Value) -> Value {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (user, what) =
            (text(&review["spec"]["user"]), review["spec"]["resourceAttributes"].clone());
        let place = text(&what["namespace"]);
        let may = |place: &str| {
            self.permissions.contains(&(
                user.clone(),
                text(&what["verb"]),
                text(&what["resource"]),
                place.to_owned(),
            ))
        };
        review["status"] = json!({"allowed": may(&place) || may("")});
        review
    }

    fn answer_schedule(
        &mut self,
        method: &Method,
        path: &str,
        query: &str,
        mut body: Value,
    ) -> Response<Body> {
        let (before, after) = path.split_once("/prewarmschedules").unwrap();
        let namespace = before.rsplit('/').next().unwrap();
        let name = after.trim_start_matches('/').split('/').next().unwrap();
        let missing = || reply(StatusCode::NOT_FOUND, &status_json(404, "NotFound"));
        let index = self.schedules.iter().position(|one| {
            one["metadata"]["name"] == name && one["metadata"]["namespace"] == namespace
        });
        let version = |one: &Value| one["metadata"]["resourceVersion"].as_str().unwrap().len();
        match (method.as_str(), index) {
            ("GET", _) if name.is_empty() => {
                let is_named = |one: &&Value| {
                    query.contains(&format!(
                        "metadata.name%3D{}",
                        one["metadata"]["name"].as_str().unwrap()
                    ))
                };
                let items: Vec<&Value> = self.schedules.iter().filter(is_named).collect();
                let list = json!({"apiVersion": "prewarm.io/v1alpha1", "kind": "PrewarmScheduleList",
                    "metadata": {"resourceVersion": "1"}, "items": items});
                return reply(StatusCode::OK, &list);
            }
            ("POST", _) => {
                body["metadata"]["resourceVersion"] = json!("1");
                body["metadata"]["uid"] = json!(format!("uid-{}", self.schedules.len()));
                self.schedules.push(body.clone());
                return reply(StatusCode::CREATED, &body);
            }
            ("PUT", Some(index)) => {
                let known = &mut self.schedules[index];
                if self.schedule_conflicts > 0 {
                    self.schedule_conflicts -= 1;
                    known["spec"]["historyLimit"] = json!(42);
                    known["metadata"]["resourceVersion"] = json!("1".repeat(version(known) + 1));
                }
                if body["metadata"]["resourceVersion"] != known["metadata"]["resourceVersion"] {
                    return reply(StatusCode::CONFLICT, &status_json(409, "Conflict"));
                }
                *known = body;
            }
            ("PATCH", Some(index)) => {
                self.schedules[index]["spec"]["enabled"] = body["spec"]["enabled"].clone();
            }
            ("DELETE", Some(index)) => {
                let gone = self.schedules.remove(index);
                return reply(StatusCode::OK, &gone);
            }
            ("GET", Some(index)) => return reply(StatusCode::OK, &self.schedules[index]),
            _ => return missing(),
        }
        let changed = index.map(|index| &mut self.schedules[index]).unwrap();
        changed["metadata"]["resourceVersion"] = json!("1".repeat(version(changed) + 1));
        reply(StatusCode::OK, changed)
    }

    /// Answers a request for the Lease of this name; the list, for an empty name, is always empty.
    fn answer_lease(&mut self, method: &Method, name: &str, body: Value) -> Response<Body> {
        match (method.as_str(), name) {
            ("GET", "") => {
                let list = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": {"resourceVersion": "1"}, "items": []});
                return reply(StatusCode::OK, &list);
            }
            ("POST" | "PUT", _) => {
                let lease: Lease = serde_json::from_value(body).unwrap();
                if method == Method::POST && self.leases.contains_key(&lease.name_any()) {
                    return reply(StatusCode::CONFLICT, &status_json(409, "AlreadyExists"));
                }
                self.leases.insert(lease.name_any(), lease.clone());
                return reply(StatusCode::OK, &serde_json::to_value(lease).unwrap());
            }
            _ => {}
        }
        match self.leases.get(name) {
            Some(lease) => reply(StatusCode::OK, &serde_json::to_value(lease).unwrap()),
            None => reply(StatusCode::NOT_FOUND, &status_json(404, "NotFound")),
        }
    }

    fn get_or_list_tasks(&self, path: &str, query: &str) -> Response<Body> {
        let parts: BTreeMap<usize, &str> = path.split('/').enumerate().collect();
        if parts.get(&4) == Some(&"namespaces") && parts.contains_key(&7) {
            let found = self.tasks.iter().find(|task| {
                task.namespace().as_deref() == Some(parts[&5]) && task.name_any() == parts[&7]
            });
            return match found {
                Some(task) => reply(StatusCode::OK, &serde_json::to_value(task).unwrap()),
                None => reply(StatusCode::NOT_FOUND, &status_json(404, "NotFound")),
            };
        }
        let named =
            |task: &&PrewarmTask| query.contains(&format!("metadata.name%3D{}", task.name_any()));
        let items: Vec<&PrewarmTask> = self.tasks.iter().filter(named).collect();
        let list = json!({"apiVersion": PrewarmTask::api_version(&()), "kind": "PrewarmTaskList",
            "metadata": {"resourceVersion": "1"}, "items": items});
        reply(StatusCode::OK, &list)
    }
}

/// Audience of the API server itself.
pub(super) const API_SERVER_AUDIENCE: &str = "https://kubernetes.default.svc.cluster.local";

fn status_json(code: u16, reason: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason})
}

fn reply(code: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = code;
    response
}
