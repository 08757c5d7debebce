//! Tests of `POST /tasks:extract` in process: what is read, and how errors and warnings are
//! returned.

use k8s_openapi::{ByteString, api::core::v1::Secret};

use super::*;
use crate::api::auth::token_digest;

/// Token for one namespace. Without permission to list nodes, the cluster is not needed.
const TOKEN: &str = "prw_shop_x";

fn pod(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, annotations: {{prewarm.io/enabled: 'true'}}}}\nspec: {{containers: [{{name: c, image: '{name}:1'}}]}}\n"
    )
}

async fn send(body: impl Into<Body>) -> (StatusCode, Value) {
    let entry = format!("{{\"sha256\": \"{}\", \"namespaces\": [\"shop\"]}}", token_digest(TOKEN));
    let data = [("shop".to_owned(), ByteString(entry.into_bytes()))];
    let tokens = ApiTokens::default();
    tokens.replace(Some(&Secret { data: Some(data.into()), ..Secret::default() }));
    let request = Request::post("/api/v1/tasks:extract?namespace=shop")
        .header("content-type", "application/yaml")
        .header("authorization", format!("Bearer {TOKEN}"));
    let response = router_calls::send(&api_with(&[], true, tokens), request, body.into()).await;
    (response.status(), json_of(response).await)
}

#[tokio::test]
async fn bad_document_does_not_affect_the_others() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: s, name: t}\n";
    let text = format!("{}---\nkind: Pod\nspec: a: b\n---\n{service}", pod("p"));
    let (code, body) = send(text).await;
    assert_eq!(code, StatusCode::OK, "{body}");
    assert_eq!(body["workloads"][0]["images"], json!(["p:1"]));
    assert_eq!(body["skipped"], json!(["Service/t"]));
    let message = "unexpected colon: the indentation is wrong, or a value with \": \" needs quotes";
    assert_eq!(
        body["errors"],
        json!([{"document": 2, "line": 7, "field": "", "message": message}])
    );
    let message = "the key is repeated, and its last value applies";
    assert_eq!(
        body["warnings"],
        json!([{"document": 3, "line": 11, "field": "metadata.name", "message": message}])
    );
}

#[tokio::test]
async fn one_shot_pods_are_returned_with_the_reason() {
    let plain = pod("p").replace(", annotations: {prewarm.io/enabled: 'true'}", "");
    let (code, body) = send(plain).await;
    let workload = &body["workloads"][0];
    assert_eq!((code, &workload["verdict"]), (StatusCode::OK, &json!("one_shot")), "{body}");
    assert!(workload["reason"].as_str().unwrap().starts_with("bare_pod: "), "{body}");
    assert_eq!(workload["images"], json!([]), "{body}");
}

#[tokio::test]
async fn manifest_in_which_nothing_can_be_read_is_invalid() {
    let (code, body) = send("spec: {}\n---\n- x\n").await;
    assert_eq!((code, &body["error"]), (StatusCode::BAD_REQUEST, &json!("2 fields are invalid")));
    let missing = "document 1, line 1: the object has no kind: every object of Kubernetes has apiVersion and kind";
    let list = "document 2, line 3: expected an object with apiVersion and kind, found a list";
    let messages: Vec<&Value> =
        body["details"].as_array().unwrap().iter().map(|detail| &detail["message"]).collect();
    assert_eq!(messages, [missing, list]);
    for text in ["", "# nothing\n", "---\n~\n"] {
        let (code, body) = send(text).await;
        assert_eq!(code, StatusCode::BAD_REQUEST, "{text}");
        assert_eq!(body["details"][0]["message"], "the manifest contains no object");
    }
}

#[tokio::test]
async fn what_kubectl_reads_is_read() {
    let utf16: Vec<u8> =
        [0xFEFF].into_iter().chain(pod("u").encode_utf16()).flat_map(u16::to_le_bytes).collect();
    let typed = json!({"apiVersion": "v1", "kind": "PodList", "items": [
        {"metadata": {"name": "l", "annotations": {"prewarm.io/enabled": "true"}}, "spec": {"containers": [{"image": "l:1"}]}, "status": 7}]});
    let cases = [
        (utf16, "u:1"),
        (typed.to_string().into_bytes(), "l:1"),
        (["# comment\n".repeat(1000), pod("c")].concat().into_bytes(), "c:1"),
    ];
    for (bytes, image) in cases {
        let (code, body) = send(bytes).await;
        assert_eq!(code, StatusCode::OK, "{body}");
        assert_eq!(body["workloads"][0]["images"], json!([image]), "{body}");
        assert!(body.get("errors").is_none() && body.get("warnings").is_none(), "{body}");
    }
}

#[tokio::test]
async fn limits_on_the_whole_manifest_are_413() {
    let (code, body) = send(pod("p") + &"---\na: 1\n".repeat(500)).await;
    assert_eq!(code, StatusCode::PAYLOAD_TOO_LARGE, "{body}");
    let (code, body) = send(pod("p") + "---\na: [" + &"0,".repeat(100_000) + "0]\n").await;
    assert_eq!(code, StatusCode::OK, "{body}");
    assert!(body["errors"][0]["message"].as_str().unwrap().contains("60000 values"), "{body}");
}
