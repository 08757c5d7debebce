//! Steps before the components start: the client of the cluster, the check for an older
//! installation, and the listeners.

use anyhow::Context;
use kube::Client;
use tokio::{net::TcpListener, runtime::Handle};

use crate::{
    config::{Components, Config},
    server::{listener, overlap},
};

/// Builds the client of the cluster, from `KUBECONFIG` or from the service account of the pod.
pub(super) async fn build_client() -> anyhow::Result<Client> {
    Client::try_default().await.map_err(|error| {
        anyhow::anyhow!(
            "no configuration for the cluster: set KUBECONFIG, or run in a pod ({error})"
        )
    })
}

/// Fails when an older installation watches the same namespaces.
pub(super) async fn refuse_overlap(client: &Client, config: &Config) -> anyhow::Result<()> {
    match overlap::find_older_installation(
        client,
        &config.object_name,
        config.watch_namespace.as_deref(),
    )
    .await
    {
        Some(found) => Err(anyhow::anyhow!("{found}")),
        None => Ok(()),
    }
}

/// Bound listeners; those of components that do not run are absent.
pub(super) struct Listeners {
    pub(super) webhook: Option<TcpListener>,
    pub(super) api: Option<TcpListener>,
    pub(super) health: TcpListener,
}

/// Binds the listeners of the components that run in this process.
pub(super) fn bind_listeners(config: &Config, admission: &Handle) -> anyhow::Result<Listeners> {
    let Components { admission: serves_webhook, api, .. } = config.components;
    let webhook = if serves_webhook {
        // The runtime that accepts its connections polls the socket.
        let _runtime = admission.enter();
        Some(bind("--webhook-addr", config.webhook_addr)?)
    } else {
        None
    };
    let health = bind("--health-addr", config.health_addr)?;
    let api = match config.api.as_ref().filter(|_| api) {
        Some(api) => Some(bind("--api-addr", api.addr)?),
        None => None,
    };
    Ok(Listeners { webhook, api, health })
}

/// Logs the addresses of the listeners.
pub(super) fn log_addresses(config: &Config) {
    let Components { admission, api, controller } = config.components;
    let rest =
        config.api.as_ref().filter(|_| api).map(|api| api.addr.to_string()).unwrap_or_default();
    let webhook = if admission { config.webhook_addr.to_string() } else { String::new() };
    tracing::info!(webhook, api = rest, controller, health = %config.health_addr, "serving");
}

fn bind(flag: &'static str, address: std::net::SocketAddr) -> anyhow::Result<TcpListener> {
    listener::bind(address)
        .with_context(|| format!("{flag} {address}: cannot listen on this address"))
}
