//! Follows namespaces, runtime classes and autoscalers.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::Debug,
};

use futures::{StreamExt, future::BoxFuture};
use k8s_openapi::api::{core::v1::Namespace, node::v1::RuntimeClass};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        watcher::{self, Config, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::watch::Sender;
use tokio_util::sync::CancellationToken;

use super::{Identity, Scheduling, Surroundings};
use crate::{reduced::ReducedAutoscaler, scope::scoped, task::PREFIX};

/// Objects per page of a first list.
const PAGE: u32 = 250;

/// Follows the cluster until `stop`. With a `namespace`, only its own annotations and autoscalers are read. `ready` tells
/// whether each first list is there.
#[must_use]
pub fn follow(
    around: &Surroundings,
    client: &Client,
    namespace: Option<&str>,
    ready: &Sender<usize>,
    stop: &CancellationToken,
) -> Vec<BoxFuture<'static, ()>> {
    let api = Api::<PartialObjectMeta<Namespace>>::all(client.clone());
    let only = namespace.map(|name| Config::default().fields(&format!("metadata.name={name}")));
    let (names, classes, scalers) = (around.clone(), around.clone(), around.clone());
    let mut listed = HashSet::new();
    let namespaces = one(api, only.unwrap_or_default(), ready, stop, move |change| match change {
        Change::Put(namespace) => {
            listed.insert(namespace.name_any());
            names.note_name(&namespace.name_any(), true);
            names.set_namespace(&namespace.name_any(), ours(namespace.annotations()));
        }
        Change::Drop(namespace) => {
            names.note_name(&namespace.name_any(), false);
            names.set_namespace(&namespace.name_any(), BTreeMap::new());
        }
        Change::Begun => listed = HashSet::new(),
        Change::Listed => names.set_names(std::mem::take(&mut listed)),
    });
    let api = Api::<RuntimeClass>::all(client.clone());
    let runtime_classes = one(api, Config::default(), ready, stop, move |change| match change {
        Change::Put(class) => classes.set_runtime_class(&class.name_any(), Some(scheduling(&class))),
        Change::Drop(class) => classes.set_runtime_class(&class.name_any(), None),
        Change::Begun | Change::Listed => {}
    });
    let api = scoped::<ReducedAutoscaler>(client, namespace);
    let autoscalers = one(api, Config::default(), ready, stop, move |change| match change {
        Change::Put(scaler) => scalers.set_most_replicas(target(&scaler), Some(scaler.spec.max_replicas)),
        Change::Drop(scaler) => scalers.set_most_replicas(target(&scaler), None),
        Change::Begun | Change::Listed => {}
    });
    vec![namespaces, runtime_classes, autoscalers]
}

enum Change<K> {
    Put(K),
    Drop(K),
    /// A list of all objects begins.
    Begun,
    /// The list has ended: what was put since it began is all there is.
    Listed,
}

/// One watch. What vanished while it was interrupted keeps its entry: nothing asks for it any more.
fn one<K>(
    api: Api<K>,
    config: Config,
    ready: &Sender<usize>,
    stop: &CancellationToken,
    mut note: impl FnMut(Change<K>) + Send + 'static,
) -> BoxFuture<'static, ()>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    K::DynamicType: Default,
{
    let (ready, stop) = (ready.clone(), stop.clone());
    Box::pin(async move {
        let kind = K::plural(&K::DynamicType::default()).into_owned();
        let mut first = true;
        let mut stream = std::pin::pin!(watcher(api, config.page_size(PAGE)).default_backoff());
        while let Some(Some(event)) = stop.run_until_cancelled(stream.next()).await {
            match event {
                Ok(Event::Apply(object) | Event::InitApply(object)) => note(Change::Put(object)),
                Ok(Event::Delete(object)) => note(Change::Drop(object)),
                Ok(Event::Init) => note(Change::Begun),
                Ok(Event::InitDone) => {
                    note(Change::Listed);
                    if std::mem::take(&mut first) {
                        ready.send_modify(|count| *count += 1);
                    }
                }
                Err(error) => {
                    tracing::warn!(%kind, %error, "a watch was interrupted; it is taken up again");
                    // An install for one namespace may have no right to read what is the cluster's: then it counts for nothing.
                    if is_forbidden(&error) && std::mem::take(&mut first) {
                        ready.send_modify(|count| *count += 1);
                    }
                }
            }
        }
    })
}

fn is_forbidden(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    let (InitialListFailed(kube::Error::Api(status))
    | WatchStartFailed(kube::Error::Api(status))
    | WatchFailed(kube::Error::Api(status))
    | WatchError(status)) = error
    else {
        return false;
    };
    status.code == 403
}

fn ours(annotations: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    annotations.iter().filter(|(key, _)| key.starts_with(PREFIX)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn scheduling(class: &RuntimeClass) -> Scheduling {
    let scheduling = class.scheduling.clone().unwrap_or_default();
    Scheduling {
        node_selector: scheduling.node_selector.unwrap_or_default(),
        tolerations: scheduling.tolerations.unwrap_or_default(),
    }
}

fn target(scaler: &ReducedAutoscaler) -> Identity {
    let target = &scaler.spec.scale_target_ref;
    (scaler.namespace().unwrap_or_default(), target.kind.clone(), target.name.clone())
}
