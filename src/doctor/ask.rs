//! Questions to the API server. Nothing is changed: what is created is created by way of a dry run.

use std::collections::BTreeMap;

use http::{Request, Response};
use jiff::{Timestamp, fmt::rfc2822};
use k8s_openapi::{
    api::{
        admissionregistration::v1::{ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration},
        apps::v1::Deployment,
        authorization::v1::{
            ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview,
            SubjectAccessReviewSpec,
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
};
use serde_json::{Value, json};

use super::{
    answers::{Answers, Deployed, Lead, Registered, Rehearsal, Seen, Server},
    foreign::foreign,
};
use crate::{
    config::Doctor,
    node::{Facts, Interner},
    reduced::ReducedNode,
    task::{PREFIX, PrewarmTask, PrewarmTaskSpec, PullMethod, validate::validate},
    worker::{Assignment, WorkerSettings, build},
};

/// The definitions that an installation brings.
pub(super) const DEFINITIONS: [&str; 3] =
    ["prewarmtasks.prewarm.io", "prewarmplans.prewarm.io", "prewarmschedules.prewarm.io"];
/// What an installation must be allowed to create: group, resource.
const TO_INSTALL: [(&str, &str); 8] = [
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
    ("scheduling.k8s.io", "priorityclasses"),
    ("apps", "deployments"),
    ("", "secrets"),
];
/// What the account that makes workers cannot do without: verb, group, resource.
const TO_SERVE: [(&str, &str, &str); 9] = [
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
/// What the account that answers the webhook cannot do without, where it is another one.
const TO_ANSWER: [(&str, &str, &str); 3] =
    [("get", "apps", "deployments"), ("create", "prewarm.io", "prewarmtasks"), ("watch", "prewarm.io", "prewarmtasks")];
/// In a mistaken annotation: the webhook's warning repeats it.
pub(super) const MARK: &str = "prewarmer-doctor";
/// Failures of this many tasks are looked at.
const TASKS: u32 = 200;

/// Asks all that is to be known.
pub(super) async fn ask(client: &Client, asked: &Doctor) -> Answers {
    let installed = !asked.pre;
    let name = asked.object_name.as_str();
    let nodes = nodes(client).await;
    let mut definitions = BTreeMap::new();
    for definition in DEFINITIONS {
        definitions.insert(definition.to_owned(), definition_of(client, definition).await);
    }
    let mut answers = Answers {
        now: Timestamp::now(),
        server: server(client).await,
        nodes,
        definitions,
        own_rights: Vec::new(),
        server_rights: Vec::new(),
        deployment: Seen::Absent,
        controller: Seen::Absent,
        lead: Seen::Absent,
        registered: Seen::Absent,
        ready: Seen::Absent,
        fence: Seen::Absent,
        reserved: Seen::Absent,
        foreign: Seen::Absent,
        worker_secrets: Seen::Absent,
        review: Seen::Absent,
        workers: Vec::new(),
        failures: Seen::Absent,
    };
    for namespace in &asked.namespaces {
        answers.workers.push((namespace.clone(), worker(client, namespace, asked).await));
    }
    if !installed {
        for (group, resource) in TO_INSTALL {
            answers.own_rights.push((format!("create {resource}"), may(client, None, "create", group, resource).await));
        }
        return answers;
    }
    answers.deployment = deployment(client, asked, name).await;
    let controller = format!("{name}-controller");
    answers.controller = deployment(client, asked, &controller).await;
    let watched = asked.watch_namespace.as_deref();
    // Where there is no Deployment of the controller, one account does everything.
    let split = answers.controller.is().is_some();
    let worker_account = if split { controller.as_str() } else { name };
    let front = if split { &TO_ANSWER[..] } else { &[] };
    for (account, rights) in [(worker_account, &TO_SERVE[..]), (name, front)] {
        let user = format!("system:serviceaccount:{}:{account}", asked.namespace);
        for (verb, group, resource) in rights {
            let place = watched.filter(|_| *resource != "nodes");
            let right = may(client, Some((&user, place)), verb, group, resource).await;
            answers.server_rights.push((format!("{account}: {verb} {resource}"), right));
        }
    }
    answers.lead = lead(client, asked).await;
    answers.registered = registered(client, name).await;
    let path = format!("/api/v1/namespaces/{}/services/http:{name}-metrics:metrics/proxy/readyz", asked.namespace);
    answers.ready = readiness(client, &path).await;
    answers.fence = bound(client, ["pods", "jobs", "deletions"].map(|part| format!("{name}-{part}"))).await;
    answers.reserved = bound(client, ["pods", "jobs", "plans"].map(|part| format!("{name}-reserved-{part}"))).await;
    answers.foreign = foreign(client, asked).await;
    answers.worker_secrets = worker_secrets(client, &asked.namespace, &format!("{name}-worker")).await;
    answers.review = review(client, watched.unwrap_or(&asked.review_in)).await;
    answers.failures = failures(client, watched).await;
    answers
}

async fn text(response: Response<Body>) -> kube::Result<Vec<u8>> {
    let body = response.into_body().collect_bytes().await?;
    Ok(body.to_vec())
}

async fn get(client: &Client, path: &str) -> kube::Result<Response<Body>> {
    let request = Request::get(path).body(Body::empty()).map_err(kube::Error::HttpError)?;
    client.send(request).await
}

async fn server(client: &Client) -> Seen<Server> {
    let asked = async {
        let response = get(client, "/version").await?;
        let date = response.headers().get("date").and_then(|date| date.to_str().ok()).map(str::to_owned);
        let ours = Timestamp::now();
        let info: Info = serde_json::from_slice(&text(response).await?).map_err(kube::Error::SerdeError)?;
        let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or_default();
        let theirs = date.and_then(|date| rfc2822::parse(&date).ok()).map(|zoned| zoned.timestamp());
        Ok(Server {
            version: (number(&info.major), number(&info.minor)),
            text: info.git_version,
            clocks: theirs.map(|theirs| (theirs, ours)),
        })
    };
    Seen::of(asked.await)
}

async fn nodes(client: &Client) -> Seen<Vec<Facts>> {
    let texts = Interner::default();
    let list = Api::<ReducedNode>::all(client.clone()).list(&ListParams::default()).await;
    Seen::of(list).map(|list| list.items.iter().map(|node| Facts::new(node, &texts)).collect())
}

async fn definition_of(client: &Client, name: &str) -> Seen<Value> {
    let found = Api::<CustomResourceDefinition>::all(client.clone()).get(name).await;
    Seen::of(found).map(|definition| serde_json::to_value(definition).unwrap_or_default())
}

/// Whether somebody may; whoever asks, where nobody is named.
async fn may(
    client: &Client,
    whom: Option<(&str, Option<&str>)>,
    verb: &str,
    group: &str,
    resource: &str,
) -> Seen<bool> {
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
        Api::all(client.clone()).create(&PostParams::default(), &review).await.map(|review| review.status)
    } else {
        let spec = SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        };
        let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
        Api::all(client.clone()).create(&PostParams::default(), &review).await.map(|review| review.status)
    };
    Seen::of(status).map(|status| status.is_some_and(|status| status.allowed))
}

async fn deployment(client: &Client, asked: &Doctor, name: &str) -> Seen<Deployed> {
    let found = Api::<Deployment>::namespaced(client.clone(), &asked.namespace).get(name).await;
    Seen::of(found).map(|deployment| {
        let spec = deployment.spec;
        let container = spec.template.spec.and_then(|pod| pod.containers.into_iter().next()).unwrap_or_default();
        Deployed {
            wanted: spec.replicas.unwrap_or(1),
            ready: deployment.status.and_then(|status| status.ready_replicas).unwrap_or_default(),
            image: container.image.unwrap_or_default(),
        }
    })
}

async fn lead(client: &Client, asked: &Doctor) -> Seen<Lead> {
    let found = Api::<Lease>::namespaced(client.clone(), &asked.namespace).get(&asked.object_name).await;
    Seen::of(found).map(|lease| {
        let spec = lease.spec.unwrap_or_default();
        Lead { holder: spec.holder_identity.unwrap_or_default(), renewed: spec.renew_time.map(|time| time.0) }
    })
}

async fn registered(client: &Client, name: &str) -> Seen<Registered> {
    let found = Api::<ValidatingWebhookConfiguration>::all(client.clone()).get(name).await;
    Seen::of(found).map(|configuration| {
        let webhooks = configuration.webhooks.unwrap_or_default();
        let has_ca = |ca: &k8s_openapi::ByteString| !ca.0.is_empty();
        let trusted = webhooks.iter().all(|webhook| webhook.client_config.ca_bundle.as_ref().is_some_and(has_ca));
        Registered { trusted, webhooks: webhooks.len() }
    })
}

/// The readiness of one of the servers, through their Service. An answer of 503 is an answer too.
async fn readiness(client: &Client, path: &str) -> Seen<Value> {
    let asked = async {
        let response = get(client, path).await?;
        let code = response.status();
        let bytes = text(response).await?;
        let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if body["waitingFor"].is_array() {
            return Ok(body);
        }
        let message = body["message"].as_str().unwrap_or("no answer of Prewarmer's").to_owned();
        let status = kube::core::Status { code: code.as_u16(), message, ..kube::core::Status::default() };
        Err(kube::Error::Api(Box::new(status)))
    };
    Seen::of(asked.await)
}

/// How many of these policies are bound.
async fn bound(client: &Client, policies: [String; 3]) -> Seen<usize> {
    let list = Api::<ValidatingAdmissionPolicyBinding>::all(client.clone()).list(&ListParams::default()).await;
    let is_ours = |binding: &&ValidatingAdmissionPolicyBinding| policies.contains(&binding.spec.policy_name);
    Seen::of(list).map(|list| list.items.iter().filter(is_ours).count())
}

async fn worker_secrets(client: &Client, namespace: &str, account: &str) -> Seen<Vec<String>> {
    let found = Api::<ServiceAccount>::namespaced(client.clone(), namespace).get(account).await;
    Seen::of(found)
        .map(|account| account.image_pull_secrets.unwrap_or_default().into_iter().map(|secret| secret.name).collect())
}

async fn rehearse(client: &Client, path: &str, object: &Value) -> Seen<Rehearsal> {
    let asked = async {
        let body = serde_json::to_vec(object).map_err(kube::Error::SerdeError)?;
        let request = Request::post(format!("{path}?dryRun=All"))
            .header("content-type", "application/json")
            .body(Body::from(body))
            .map_err(kube::Error::HttpError)?;
        let response = client.send(request).await?;
        let code = response.status();
        let warnings = response.headers().get_all("warning").iter();
        let warnings: Vec<String> =
            warnings.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect();
        let answer: Value = serde_json::from_slice(&text(response).await?).unwrap_or_default();
        let message = answer["message"].as_str().unwrap_or_default().to_owned();
        // "User ... cannot create resource ..." is about whoever asks; a policy's refusal is about the object.
        let about_us = code.as_u16() == 403 && message.contains("cannot create resource");
        if code.is_success() {
            Ok(Rehearsal::Accepted(warnings))
        } else if about_us || code.as_u16() == 404 {
            let status = kube::core::Status { code: code.as_u16(), message, ..kube::core::Status::default() };
            Err(kube::Error::Api(Box::new(status)))
        } else {
            Ok(Rehearsal::Refused(message))
        }
    };
    Seen::of(asked.await)
}

/// Has the API server ask the webhook about a workload that is never stored. A mistake in it makes the webhook say something.
async fn review(client: &Client, namespace: &str) -> Seen<Rehearsal> {
    let workload = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": MARK, "annotations": {"prewarm.io/batch-size": MARK}},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": MARK}},
            "template": {
                "metadata": {"labels": {"app": MARK}},
                "spec": {"containers": [{"name": "c", "image": "prewarmer.invalid/doctor:0"}]},
            },
        },
    });
    rehearse(client, &format!("/apis/apps/v1/namespaces/{namespace}/deployments"), &workload).await
}

/// The pod of a worker, as the server would make it.
async fn worker(client: &Client, namespace: &str, asked: &Doctor) -> Seen<Rehearsal> {
    let spec = PrewarmTaskSpec::new(vec!["prewarmer.invalid/doctor:0".into()]);
    let Ok(task) = validate(&spec) else { return Seen::Failed("the sample task is not valid".into()) };
    let settings = WorkerSettings {
        owner: None,
        service_account: None,
        image: asked.worker_image.clone(),
        priority_class: None,
        ttl: std::time::Duration::from_secs(60),
        images_per_pod: 1,
    };
    let at = Assignment {
        namespace,
        task_namespace: "",
        task: MARK,
        uid: MARK,
        batch: 0,
        node: MARK,
        attempt: 0,
        part: 0,
        asked: &[0],
        method: PullMethod::Helper,
    };
    let mut pod = build(&task, &at, &settings).to_pod();
    // With these, the label by which policies except our pods is reserved to the server.
    pod.metadata.labels.iter_mut().for_each(|labels| labels.retain(|label, _| !label.starts_with(PREFIX)));
    let object = serde_json::to_value(&pod).unwrap_or_default();
    rehearse(client, &format!("/api/v1/namespaces/{namespace}/pods"), &object).await
}

/// Why nodes failed in tasks that are there, and how many.
async fn failures(client: &Client, namespace: Option<&str>) -> Seen<BTreeMap<String, u32>> {
    let tasks = crate::scope::scoped::<PrewarmTask>(client, namespace);
    let list = tasks.list(&ListParams::default().limit(TASKS)).await;
    Seen::of(list).map(|list| {
        let mut reasons = BTreeMap::new();
        let failed = list.items.iter().filter_map(|task| task.status.as_ref()).flat_map(|status| &status.failed_nodes);
        for node in failed {
            *reasons.entry(node.reason.clone()).or_insert(0) += 1;
        }
        reasons
    })
}
