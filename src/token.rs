//! `prewarmer token create`. *Pure*, but for chance.

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::{
    api::auth::{ALL_NAMESPACES, TokenEntry, digest, generate, is_name},
    config::{TokenArgs, object_name},
    duration, items,
    serve::token_secret_name,
};

/// A token that was made.
#[derive(Debug)]
pub struct Made {
    /// What its maker is told, the token among it.
    pub told: String,
    /// The Secret that makes it good; the token is not in it.
    pub manifest: String,
}

fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// Makes a token; every mistake is told.
pub fn create(args: &TokenArgs, now: Timestamp) -> Result<Made, Vec<String>> {
    let mut problems = Vec::new();
    if !is_name(&args.name) {
        problems.push(format!("NAME: {:?}: expected at most 40 lower-case letters, digits and dashes", args.name));
    }
    let namespaces: Vec<String> = items(&args.namespaces).map(str::to_owned).collect();
    if namespaces.is_empty() {
        problems.push("--namespaces: name at least one, or * for all".into());
    }
    let expires_at = args.expires_in.as_deref().and_then(|text| match duration::parse(text) {
        Ok(span) => SignedDuration::try_from(span).ok().and_then(|span| now.checked_add(span).ok()).map(whole_seconds),
        Err(expected) => {
            problems.push(format!("--expires-in: {text:?}: {expected}"));
            None
        }
    });
    if !problems.is_empty() {
        return Err(problems);
    }
    let token = generate(&args.name);
    let object = args.instance.as_deref().filter(|text| !text.is_empty());
    let secret = token_secret_name(&object_name(object));
    let entry =
        TokenEntry { sha256: digest(&token), namespaces, read_only: args.read_only, nodes: args.nodes, expires_at };
    let where_to = if entry.namespaces.iter().any(|name| name == ALL_NAMESPACES) {
        "all namespaces".to_owned()
    } else {
        entry.namespaces.join(", ")
    };
    let may = if args.read_only { "read" } else { "read and change" };
    let until = expires_at.map_or_else(|| "for ever".to_owned(), |end| format!("until {end}"));
    let told = format!(
        "This token may {may} tasks and schedules in {where_to}{nodes}, {until}. It is shown once and stored nowhere:\n\n{token}\n\n\
         It is good as soon as the Secret below is applied:\n\
         kubectl apply --server-side --field-manager=prewarmer-token-{name} -f -\n\
         To take it back: kubectl -n {namespace} patch secret {secret} --type=json -p '[{{\"op\":\"remove\",\"path\":\"/data/{name}\"}}]'\n",
        nodes = if args.nodes { ", and list the cluster's nodes" } else { "" },
        name = args.name,
        namespace = args.namespace,
    );
    let data = serde_json::to_string(&entry).map_err(|error| vec![error.to_string()])?;
    let manifest = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": secret, "namespace": args.namespace},
        "data": {&args.name: STANDARD.encode(data)},
    });
    Ok(Made {
        told,
        manifest: serde_json::to_string_pretty(&manifest).map_err(|error| vec![error.to_string()])? + "\n",
    })
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
        let token = made.told.lines().find(|line| line.starts_with("prw_ci_")).unwrap();
        assert!(!made.manifest.contains(token));
        let manifest: serde_json::Value = serde_json::from_str(&made.manifest).unwrap();
        let entry: TokenEntry =
            serde_json::from_slice(&STANDARD.decode(manifest["data"]["ci"].as_str().unwrap()).unwrap()).unwrap();
        assert_eq!((entry.sha256, entry.namespaces.len(), entry.read_only), (digest(token), 2, true));
        assert_eq!(entry.expires_at.unwrap().to_string(), "2026-11-22T00:00:00Z");
        assert_eq!(manifest["metadata"]["name"], "prewarmer-api-tokens");
    }

    #[test]
    fn mistakes() {
        let wrong =
            TokenArgs { name: "C I".into(), namespaces: String::new(), expires_in: Some("soon".into()), ..args() };
        assert_eq!(create(&wrong, Timestamp::UNIX_EPOCH).unwrap_err().len(), 3);
    }
}
