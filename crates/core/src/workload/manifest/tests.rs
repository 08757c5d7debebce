//! Tests of the reading of manifests: what kubectl reads is read, and what cannot be read is named
//! by its place.

use std::{fmt::Write, time::Duration};

use proptest::prelude::*;
use rstest::rstest;

use super::{
    super::{
        EmptyContext, Extraction, OneShotMode, Policy, WorkloadKind, WorkloadKinds,
        extract_documents,
    },
    *,
};

fn policy(kinds: &str) -> Policy {
    let kinds = kinds.split(',').filter(|text| !text.is_empty());
    let kinds = kinds.map(|text| WorkloadKind::parse(text).unwrap()).collect();
    Policy {
        kinds: WorkloadKinds::with_custom(kinds),
        one_shot: OneShotMode::Warm,
        ..Policy::default()
    }
}

fn read(text: &str) -> Extraction {
    extract_documents(text, &policy(""), "default").unwrap()
}

/// Reads a manifest within the limits of a server, except that of time, which a busy machine exceeds.
fn read_bounded(text: &str) -> Extraction {
    let policy = policy("");
    let limits =
        ManifestLimits { max_duration: Duration::from_secs(600), ..ManifestLimits::SERVER };
    let mut manifest = ParsedManifest::new(limits);
    manifest.read("", text.as_bytes(), &policy.kinds).unwrap();
    manifest.extract(&policy, &EmptyContext, "default").unwrap()
}

/// Returns `Kind/name: images` of each workload.
fn images(found: &Extraction) -> Vec<String> {
    let line =
        |one: &super::super::Extracted| format!("{}: {}", one.workload, one.images.join(" "));
    found.workloads.iter().map(line).collect()
}

fn lines<T: ToString>(findings: &[T]) -> Vec<String> {
    findings.iter().map(ToString::to_string).collect()
}

fn pod(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: c, image: '{name}:1'}}]}}\n"
    )
}

/// Manifests that kubectl reads, with the workloads in them.
#[rstest]
#[case::comment_block("{comments}{pod}", &["Pod/p: p:1"])]
#[case::comments_between_items(
    "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\nspec:\n  containers:\n  - name: a\n    image: a:1\n{comments}  - name: b\n{comments}    image: b:1\n",
    &["Pod/p: a:1 b:1"])]
#[case::text_continued_at_the_key("apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  annotations:\n    note: \"two\n    lines\n\n    \t# more\n  less\"\n    other: 'it''s\n    two' # comment\nspec: {containers: [{name: c, image: 'a:1'}]}\n",
    &["Pod/p: a:1"])]
#[case::several_texts_continued_at_the_key("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\na: \"x\ny \\\" z\"\n# it's\nb:\n  - 'x\n  y'\n  - c: !!str \"x\n    y\"\nspec: {containers: [{name: c, image: 'a:1'}]}\n",
    &["Pod/p: a:1"])]
#[case::comment_without_a_space("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nx: 'a'#b\nspec: {containers: [{image: \"a:1\"}]}# c\n", &["Pod/p: a:1"])]
#[case::typed_list("{\"apiVersion\": \"apps/v1\", \"kind\": \"DeploymentList\", \"metadata\": {}, \"items\": [{\"metadata\": {\"name\": \"web\"}, {template}}]}",
    &["Deployment/web: a:1"])]
#[case::list_of_lists("apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: PodList\n  items:\n  - metadata: {name: p}\n    spec: {containers: [{image: 'a:1'}]}\n",
    &["Pod/p: a:1"])]
#[case::concatenated_json("{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"p\"},\"spec\":{\"containers\":[{\"image\":\"a:1\"}]}}{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"q\"},\"spec\":{\"containers\":[{\"image\":\"b:1\"}]}}\n\n {\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\"metadata\":{\"name\":\"n\"}}",
    &["Pod/p: a:1", "Pod/q: b:1"])]
#[case::json_and_then_yaml("{\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\"metadata\":{\"name\":\"n\"}}\n---\n{pod}", &["Pod/p: p:1"])]
#[case::yaml_in_braces("{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{image: a}]}}", &["Pod/p: a"])]
#[case::windows("\u{FEFF}apiVersion: v1\r\nkind: Pod\r\nmetadata: {name: p}\r\nspec: {containers: [{image: a}]}\r\n---\r\n", &["Pod/p: a"])]
#[case::many_aliases("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nx: &c {a: 'some text', b: 'more text'}\ny: [*c, *c, *c, *c, *c, *c, *c, *c, *c, *c, *c, *c, *c, *c, *c, *c, *c, *c, *c]\nspec: {containers: [{image: a}]}\n", &["Pod/p: a"])]
#[case::anchors("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nx: &c {image: 'a:1'}\nspec:\n  containers:\n  - <<: *c\n    name: a\n  - *c\n", &["Pod/p: a:1"])]
#[case::status_of_any_shape("apiVersion: v1\nkind: Pod\nmetadata: {name: p, managedFields: 7}\nspec: {containers: [{image: a}]}\nstatus: [1, {conditions: 7}]\n", &["Pod/p: a"])]
#[case::status_in_a_list("apiVersion: v1\nkind: PodList\nitems:\n- metadata: {name: p}\n  spec: {containers: [{image: a}]}\n  status: {conditions: 7, containerStatuses: no}\n", &["Pod/p: a"])]
#[case::generated_name("apiVersion: v1\nkind: Pod\nmetadata: {generateName: p-}\nspec: {containers: [{image: a}]}\n", &["Pod/p-: a"])]
#[case::version_directive("%YAML 1.1\n---\n{pod}", &["Pod/p: p:1"])]
#[case::values_of_yaml_1_1("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {hostNetwork: yes, terminationGracePeriodSeconds: 0o17, x: .inf, y: 0644, 1: 2, true: 3, containers: [{image: a}]}\n", &["Pod/p: a"])]
#[case::nothing_but_comments("{comments}---\n# x\n---\n~\n", &[])]
fn what_kubectl_reads_is_read(#[case] text: &str, #[case] expected: &[&str]) {
    let comments = "# a comment\n".repeat(500);
    let template = r#""spec": {"template": {"spec": {"containers": [{"image": "a:1"}]}}}"#;
    let text = text
        .replace("{comments}", &comments)
        .replace("{pod}", &pod("p"))
        .replace("{template}", template);
    let found = read(&text);
    assert_eq!(lines(&found.errors), [""; 0], "{text}");
    assert_eq!(images(&found), expected, "{text}");
}

#[test]
fn files_in_other_encodings_are_read() {
    let policy = policy("");
    let mut manifest = ParsedManifest::new(ManifestLimits::LOCAL);
    let windows: Vec<u8> =
        [0xFEFF].into_iter().chain(pod("w").encode_utf16()).flat_map(u16::to_le_bytes).collect();
    manifest.read("w.yaml", &windows, &policy.kinds).unwrap();
    let latin = [b"# \xE9\n", pod("l").as_bytes()].concat();
    manifest.read("l.yaml", &latin, &policy.kinds).unwrap();
    let found = manifest.extract(&policy, &EmptyContext, "default").unwrap();
    assert_eq!(images(&found), ["Pod/w: w:1", "Pod/l: l:1"]);
    assert_eq!(
        lines(&found.warnings),
        ["l.yaml: bytes that are not valid text were replaced by U+FFFD: save the file as UTF-8"]
    );
}

#[rstest]
#[case::yaml(
    "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - image: a:1\n    image: b:1\n",
    "document 1, line 7: spec.containers[0].image: the key is repeated, and its last value applies"
)]
#[case::json(
    "{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"p\"},\n\"spec\": {\"containers\": [{\"image\": \"a:1\",\n\"image\": \"b:1\"}]}}",
    "document 1, line 3: spec.containers[0].image: the key is repeated, and its last value applies"
)]
#[case::whole_spec(
    "apiVersion: v1\nkind: Pod\nspec: {containers: [{image: 'a:1'}]}\nmetadata: {name: p}\nspec: {containers: [{image: 'b:1'}]}\n",
    "document 1, line 5: spec: the key is repeated, and its last value applies"
)]
fn last_value_of_a_repeated_key_applies(#[case] text: &str, #[case] warning: &str) {
    let found = read(text);
    assert_eq!(images(&found), ["Pod/p: b:1"]);
    assert_eq!(lines(&found.warnings), [warning]);
}

/// Documents that cannot be read, with their messages. Each is the second of three documents.
#[rstest]
#[case::quote("kind: \"Pod\n", "a quoted text is not closed")]
#[case::bracket("kind: Pod\nspec: {containers: [\n", "a [ or { is not closed")]
#[case::tab("kind: Pod\nspec:\n\tcontainers: []\n", "a tab is used as indentation: use spaces")]
#[case::indentation("kind: Pod\nspec:\n  a: 1\n b: 2\n", "indentation")]
#[case::colon("kind: Pod\nspec: a: b\n", "unexpected colon")]
#[case::anchor("kind: Pod\nspec: *nothing\n", "an alias (*NAME) names an anchor")]
#[case::character(
    "kind: Pod\nspec: @x\n",
    "line 7: spec: a value starts with a reserved character"
)]
#[case::control("\u{1}\n", "")]
#[case::template("kind: Pod\nmetadata:\n  {{- include \"x\" . | nindent 4 }}\n", "helm template")]
#[case::template_value("kind: Pod\nmetadata:\n  name: {{ .Values.name }}\n", "helm template")]
#[case::no_object("just text\n", "line 6: expected an object with apiVersion and kind, found text")]
#[case::list("- a\n- b\n", "expected an object with apiVersion and kind, found a list")]
#[case::no_kind("apiVersion: v1\nspec: {}\n", "line 6: the object has no kind")]
#[case::kind_of_another_type(
    "apiVersion: v1\nkind: [Pod]\n",
    "line 7: kind: expected text, found a list"
)]
#[case::number_as_image(
    "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - image: 1.0\n",
    "line 10: spec.containers[0].image: expected text, found the number 1.0: put it in quotes"
)]
#[case::boolean_annotation(
    "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec:\n  template:\n    metadata:\n      annotations:\n        prewarm.io/enabled: yes\n",
    "line 13: spec.template.metadata.annotations.prewarm.io/enabled: expected text, found true: put it in quotes"
)]
#[case::containers_of_another_type(
    "apiVersion: v1\nkind: Pod\nspec: {containers: {a: 1}}\n",
    "line 8: spec.containers: expected a list, found an object"
)]
#[case::container_of_another_type(
    "apiVersion: v1\nkind: Pod\nspec: {containers: [x]}\n",
    "line 8: spec.containers[0]: expected an object, found the text \"x\""
)]
#[case::item_of_a_list(
    "apiVersion: v1\nkind: PodList\nitems:\n- metadata: {name: a}\n  spec:\n    containers: 7\n",
    "line 11: items[0].spec.containers: expected a list, found the number 7"
)]
#[case::json(
    "{\"apiVersion\": \"v1\", \"kind\": \"Pod\",\n\"spec\": {\"containers\": [{\"image\": 7}]}}\n",
    "line 7: spec.containers[0].image: expected text, found the number 7: put it in quotes"
)]
#[case::unfinished_json(
    "{\"apiVersion\": \"v1\", \"kind\": \"Pod\",\n\"spec\": {\"containers\": [",
    "a [ or { is not closed"
)]
#[case::affinity(
    "apiVersion: v1\nkind: Pod\nspec: {affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: 7}}}\n",
    "expected a node selector of at most 65,536 bytes with nodeSelectorTerms, found the number 7"
)]
fn one_bad_document_costs_only_itself(#[case] bad: &str, #[case] message: &str) {
    let text = format!("{}---\n{bad}\n---\n{}", pod("p"), pod("q"));
    let found = read(&text);
    assert_eq!(images(&found), ["Pod/p: p:1", "Pod/q: q:1"], "{bad}");
    let errors = lines(&found.errors);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].starts_with("document 2, line "), "{errors:?}");
    assert!(errors[0].contains(message), "{errors:?}");
    for word in ["serde", "invalid type", "struct", "scalar", "mapping", "sequence of"] {
        assert!(!errors[0].contains(word), "{errors:?}");
    }
}

#[test]
fn files_are_named_and_numbered_separately() {
    let policy = policy("");
    let mut manifest = ParsedManifest::new(ManifestLimits::LOCAL);
    for name in ["a.yaml", "b.yaml"] {
        manifest.read(name, format!("{}---\n- x\n", pod("p")).as_bytes(), &policy.kinds).unwrap();
    }
    let found = manifest.extract(&policy, &EmptyContext, "default").unwrap();
    let problem = "document 2, line 6: expected an object with apiVersion and kind, found a list";
    assert_eq!(lines(&found.errors), [format!("a.yaml: {problem}"), format!("b.yaml: {problem}")]);
}

const RAY: &str = "apiVersion: ray.io/v1\nkind: RayCluster\nmetadata: {name: r}\nspec:\n  workerGroupSpecs:\n  - replicas: 40\n    template: {spec: {containers: [{name: w, image: 'worker:1'}]}}\n  - template: {spec: {containers: [{name: w, image: 'gpu:1'}]}}\n  headGroupSpec:\n    template: {spec: {containers: [{name: h, image: 'head:1'}]}}\n";

#[test]
fn a_kind_has_several_pod_templates() {
    let setting =
        "ray.io/v1/RayCluster=spec.headGroupSpec.template+spec.workerGroupSpecs[*].template";
    let found = extract_documents(RAY, &policy(setting), "default").unwrap();
    assert_eq!(
        images(&found),
        ["RayCluster/r: head:1", "RayCluster/r: worker:1", "RayCluster/r: gpu:1"]
    );
    let nodes: Vec<String> =
        found.workloads.iter().map(|one| one.nodes.as_ref().unwrap().to_string()).collect();
    assert_eq!(nodes, ["100", "160", "100"]);
    assert_eq!((found.skipped.len(), found.warnings.len()), (0, 0));
}

#[rstest]
#[case::several_templates(
    RAY,
    "document 1, line 1: RayCluster/r is skipped, but contains pod templates; to include the kind: --kinds=ray.io/v1/RayCluster=spec.headGroupSpec.template+spec.workerGroupSpecs[*].template"
)]
#[case::pod_spec(
    "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: i}\nspec: {predictor: {containers: [{image: a}]}}\n",
    "document 1, line 1: InferenceService/i is skipped, but contains pod templates; to include the kind: --kinds=serving.kserve.io/v1beta1/InferenceService=spec.predictor"
)]
#[case::removed(
    "# x\napiVersion: extensions/v1beta1\nkind: Deployment\nmetadata: {name: d}\n",
    "document 1, line 2: Deployment/d is skipped: Kubernetes 1.16 removed extensions/v1beta1; write apiVersion: apps/v1"
)]
#[case::other_version(
    "apiVersion: v1\nkind: Deployment\nmetadata: {name: d}\n",
    "document 1, line 1: Deployment/d is skipped: v1 is not an API version of this kind, which is apps/v1"
)]
#[case::no_version(
    "kind: Pod\nmetadata: {name: p}\n",
    "document 1, line 1: Pod/p is skipped: it has no apiVersion"
)]
#[case::template_in_an_image(
    "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{image: '{{ .Values.image }}'}]}\n",
    "helm template"
)]
fn warnings_state_what_to_do(#[case] text: &str, #[case] warning: &str) {
    let found = read(text);
    let warnings = lines(&found.warnings);
    assert_eq!((warnings.len(), found.errors.len()), (1, 0), "{warnings:?}");
    assert!(warnings[0].contains(warning), "{warnings:?}");
    // The suggested setting is valid, and the kind is then included.
    if let Some((_, setting)) = warnings[0].split_once("--kinds=") {
        let found = extract_documents(text, &policy(setting), "default").unwrap();
        assert!(found.skipped.is_empty() && !found.workloads[0].images.is_empty(), "{found:?}");
    }
}

#[test]
fn objects_without_pod_templates_cause_no_warning() {
    let found = read(
        "apiVersion: cert-manager.io/v1\nkind: Certificate\nmetadata: {name: c}\nspec: {dnsNames: [a]}\n---\napiVersion: serving.knative.dev/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {}\n",
    );
    assert_eq!((found.skipped.len(), found.warnings.len()), (2, 0), "{:?}", found.warnings);
}

/// Limits apply to each document: what is too large is named, and the rest is read.
#[rstest]
#[case::values(&format!("[{}0]", "0,".repeat(100_000)), "more than 60000 values")]
#[case::json_values(&format!("{{\"a\": [{}0]}}", "0,".repeat(100_000)), "more than 60000 values")]
#[case::depth_of_json(&format!("{{\"a\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000)), "64 levels deep")]
#[case::depth_of_flow(&format!("a: {}{}", "[".repeat(50_000), "]".repeat(50_000)), "64 levels deep")]
#[case::depth_of_blocks(&(0..2000).fold(String::new(), |mut text, depth| {
    writeln!(text, "{}a:", " ".repeat(depth)).unwrap();
    text
}), "64 levels deep")]
#[case::depth_of_dashes(&format!("{}x", "- ".repeat(20_000)), "64 levels deep")]
#[case::nested_aliases(&("abcdefgh".chars().zip("xabcdefg".chars()).fold("x: &x [1,1,1,1,1,1,1,1,1]\n".to_owned(), |mut text, (name, of)| {
    writeln!(text, "{name}: &{name} [{}]", vec![format!("*{of}"); 9].join(",")).unwrap();
    text
})), "aliases repeat too much")]
#[case::alias_of_a_long_text(&format!("a: &a \"{}\"\nb: [{}]\n", "x".repeat(300_000), vec!["*a"; 5000].join(",")), "aliases repeat too much")]
#[case::merge_keys(&format!("a: &a {{{}}}\nb:\n{}", (0..1000).fold(String::new(), |text, n| text + &n.to_string() + ": 1,"), "- <<: *a\n".repeat(1000)), "")]
#[case::alias_of_itself("a: &a [*a]\n", "")]
fn limits_apply_to_each_document(#[case] bad: &str, #[case] message: &str) {
    let text = format!("{}---\n{bad}\n---\n{}", pod("p"), pod("q"));
    // A thread of a server has a stack of 2 MiB.
    let found = std::thread::Builder::new().stack_size(2 << 20);
    let found = found.spawn(move || read_bounded(&text)).unwrap().join().unwrap();
    assert_eq!(images(&found), ["Pod/p: p:1", "Pod/q: q:1"]);
    let errors = lines(&found.errors);
    assert!(errors.len() == 1 && errors[0].contains(message), "{errors:?}");
    assert!(errors[0].len() < 1500, "{} bytes", errors[0].len());
}

/// Many documents, and a large list in one document. Each has 3 MB; the limits allow 20 MiB.
#[test]
fn large_manifests_are_read() {
    let documents = format!("{}---\n", pod("p")).repeat(33_000);
    assert!(documents.len() > 3_000_000, "{}", documents.len());
    let found = read(&documents);
    assert_eq!((found.workloads.len(), found.errors.len()), (33_000, 0));
    let variable = r#"{"name":"VARIABLE_OF_THE_CONTAINER","value":"a value of some length"},"#;
    let env = variable.repeat(50);
    let spec = format!(
        r#"{{"template":{{"spec":{{"containers":[{{"image":"a:1","env":[{env}{{}}]}}]}}}}}}"#
    );
    let item = format!(
        r#"{{"metadata":{{"name":"d","managedFields":[{env}1]}},"spec":{spec},"status":{{"conditions":[{env}1]}}}}"#
    );
    let items = vec![item.as_str(); 300].join(",");
    let list = format!(r#"{{"apiVersion":"apps/v1","kind":"DeploymentList","items":[{items}]}}"#);
    assert!(list.len() > 3_000_000, "{}", list.len());
    let found = read(&list);
    assert_eq!((found.workloads.len(), found.errors.len()), (300, 0));
}

/// Errors of many items are located in one pass.
#[test]
fn errors_of_many_items_take_linear_time() {
    let items = "- metadata: {name: a}\n  spec: {containers: 7}\n".repeat(20_000);
    let begun = std::time::Instant::now();
    let found = read(&format!("apiVersion: v1\nkind: PodList\nitems:\n{items}"));
    assert!(begun.elapsed().as_secs() < 60, "{:?}", begun.elapsed());
    assert_eq!(found.errors.len(), 20_000);
    let last = found.errors.last().unwrap().to_string();
    assert!(last.starts_with("document 1, line 40003: items[19999].spec.containers: "), "{last}");
}

const PIECES: [&str; 32] = [
    "a",
    ": ",
    "- ",
    "\n",
    "\n  ",
    "  ",
    "\"",
    "'",
    "{",
    "}",
    "[",
    "]",
    ",",
    "&a ",
    "*a",
    "<<: ",
    "---\n",
    "...\n",
    "|\n",
    ">",
    "# x",
    "\t",
    "!!str ",
    "? ",
    "%",
    "\u{FEFF}",
    "kind: Pod\n",
    "apiVersion: v1\n",
    "items:\n",
    "\\",
    "\r\n",
    "{{",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// Texts of any pieces neither cause a panic nor affect another document.
    #[test]
    fn any_text_is_read_or_named(pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..40)) {
        let text = format!("{}---\n{}\n---\n{}", pod("p"), pieces.concat(), pod("q"));
        let found = read_bounded(&text);
        let images = images(&found);
        prop_assert_eq!(images.first().map(String::as_str), Some("Pod/p: p:1"));
        prop_assert_eq!(images.last().map(String::as_str), Some("Pod/q: q:1"));
        for error in lines(&found.errors) {
            prop_assert!(error.starts_with("document "), "{}", error);
        }
    }

    #[test]
    fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut manifest = ParsedManifest::new(ManifestLimits::SERVER);
        manifest.read("", &bytes, &policy("").kinds).unwrap();
    }
}
