//! `prewarmer token create`: generates an API token and the Secret that stores its digest. Pure
//! except for random numbers: no client, no clock, no I/O.

use base64::{Engine, engine::general_purpose::STANDARD};
use clap::Args;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use prewarmer_core::{
    duration,
    settings::{DEFAULT_NAMESPACE, SettingsChecker, SettingsError, object_name, split_list},
    timestamp,
};

use crate::api::auth::{
    ALL_NAMESPACES, TokenEntry, generate_token, is_token_name, token_digest, token_secret_name,
};

/// Arguments of `token create`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// Name of the token, for logs: lower-case letters, digits and dashes.
    pub name: String,
    /// Namespaces in which the token is valid, separated by commas; `*` for all.
    #[arg(long, default_value = DEFAULT_NAMESPACE)]
    pub namespaces: String,
    /// Limit the token to read access.
    #[arg(long)]
    pub read_only: bool,
    /// Allow the token to list the cluster's nodes. Tokens for all namespaces may always list them.
    #[arg(long)]
    pub nodes: bool,
    /// Lifetime of the token, such as `720h`; unlimited by default.
    #[arg(long)]
    pub expires_in: Option<String>,
    /// Namespace of the installation.
    #[arg(long, env = "K8S_NAMESPACE", default_value = DEFAULT_NAMESPACE)]
    pub namespace: String,
    /// Suffix of the installation's object names, as in `serve`.
    #[arg(long, env = "PREWARMER_INSTANCE")]
    pub instance: Option<String>,
}

/// Created API token.
#[derive(Debug)]
pub struct CreatedToken {
    /// Instructions for the user, which contain the token.
    pub instructions: String,
    /// Manifest of the Secret that enables the token, as JSON. It contains the digest, not the
    /// token.
    pub manifest: String,
}

/// Creates a token. The error lists every invalid argument.
pub fn create(args: &TokenArgs, now: Timestamp) -> Result<CreatedToken, SettingsError> {
    let (namespaces, expires_at) = check_args(args, now)?;
    let token = generate_token(&args.name);
    let object = args.instance.as_deref().filter(|text| !text.is_empty());
    let secret = token_secret_name(&object_name(object));
    let entry = TokenEntry {
        sha256: token_digest(&token),
        namespaces,
        read_only: args.read_only,
        nodes: args.nodes,
        expires_at,
    };
    let failed = |error: serde_json::Error| SettingsError(vec![error.to_string()]);
    let data = serde_json::to_string(&entry).map_err(failed)?;
    let manifest = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": secret, "namespace": args.namespace},
        "data": {&args.name: STANDARD.encode(data)},
    });
    Ok(CreatedToken {
        instructions: instructions(args, &entry, &token, &secret),
        manifest: serde_json::to_string_pretty(&manifest).map_err(failed)? + "\n",
    })
}

/// Checks the arguments. Returns the namespaces and the expiry of the token.
fn check_args(
    args: &TokenArgs,
    now: Timestamp,
) -> Result<(Vec<String>, Option<Timestamp>), SettingsError> {
    let mut check = SettingsChecker::default();
    if !is_token_name(&args.name) {
        let expected = "expected 1 to 40 lower-case letters, digits and dashes";
        check.problem("NAME", &args.name, expected);
    }
    let namespaces = split_list(&args.namespaces);
    if namespaces.is_empty() {
        check.report("--namespaces: expected at least one namespace, or * for all");
    }
    let expires_at = args.expires_in.as_deref().and_then(|text| match duration::parse(text) {
        Ok(span) => SignedDuration::try_from(span)
            .ok()
            .and_then(|span| now.checked_add(span).ok())
            .map(timestamp::truncate_to_seconds),
        Err(expected) => {
            check.problem("--expires-in", text, &expected);
            None
        }
    });
    check.finish((namespaces, expires_at))
}

/// Returns the instructions for the user, which contain the token.
fn instructions(args: &TokenArgs, entry: &TokenEntry, token: &str, secret: &str) -> String {
    let where_to = if entry.namespaces.iter().any(|name| name == ALL_NAMESPACES) {
        "all namespaces".to_owned()
    } else {
        entry.namespaces.join(", ")
    };
    let may = if args.read_only { "read" } else { "read and change" };
    let until =
        entry.expires_at.map_or_else(|| "without expiry".to_owned(), |end| format!("until {end}"));
    format!(
        "This token may {may} tasks and schedules in {where_to}{nodes}, {until}. It is shown once and not stored:\n\n{token}\n\n\
         It becomes valid when the Secret below is applied:\n\
         kubectl apply --server-side --field-manager=prewarmer-token-{name} -f -\n\
         To revoke it: kubectl -n {namespace} patch secret {secret} --type=json -p '[{{\"op\":\"remove\",\"path\":\"/data/{name}\"}}]'\n",
        nodes = if args.nodes { ", and list the cluster's nodes" } else { "" },
        name = args.name,
        namespace = args.namespace,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> TokenArgs {
        TokenArgs {
            name: "ci".into(),
            namespaces: "shop, bank".into(),
            read_only: true,
            nodes: false,
            expires_in: Some("24h".into()),
            namespace: "prewarmer".into(),
            instance: None,
        }
    }

    #[test]
    fn the_secret_does_not_hold_the_token() {
        let now: Timestamp = "2026-11-21T00:00:00Z".parse().unwrap();
        let made = create(&args(), now).unwrap();
        let token = made.instructions.lines().find(|line| line.starts_with("prw_ci_")).unwrap();
        assert!(!made.manifest.contains(token));
        let manifest: serde_json::Value = serde_json::from_str(&made.manifest).unwrap();
        let entry: TokenEntry = serde_json::from_slice(
            &STANDARD.decode(manifest["data"]["ci"].as_str().unwrap()).unwrap(),
        )
        .unwrap();
        assert_eq!(
            (entry.sha256, entry.namespaces.len(), entry.read_only),
            (token_digest(token), 2, true)
        );
        assert_eq!(entry.expires_at.unwrap().to_string(), "2026-11-22T00:00:00Z");
        assert_eq!(manifest["metadata"]["name"], "prewarmer-api-tokens");
    }

    #[test]
    fn invalid_arguments_are_all_reported() {
        let wrong = TokenArgs {
            name: "C I".into(),
            namespaces: String::new(),
            expires_in: Some("soon".into()),
            ..args()
        };
        assert_eq!(create(&wrong, Timestamp::UNIX_EPOCH).unwrap_err().0.len(), 3);
    }
}
