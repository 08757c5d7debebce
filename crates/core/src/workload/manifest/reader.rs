//! Reading of the files of a manifest into workloads, cluster context and findings, with limits.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Map, Value};

use super::{
    super::{
        context::{ClusterContext, ManifestContext},
        kinds::{WorkloadKind, WorkloadKinds},
        view::ObjectView,
    },
    context_objects::{ContextObjects, string_at},
    documents::documents,
    encoding::decode,
    field_type::{kind_of, wrong_type},
    hints::skipped_warning,
    parse::{Parsed, parse_document},
    path::{FieldPath, Step},
    problem::{DocumentError, DocumentWarning, Finding, Place},
};

/// Longest name of an object in a title, in characters. Kubernetes allows 253.
const MAX_NAME: usize = 300;

/// Limits for reading a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestLimits {
    /// Maximum size of all files, in bytes.
    pub bytes: usize,
    /// Maximum number of documents and of objects in lists.
    pub objects: usize,
    /// Maximum number of pod templates.
    pub templates: usize,
    /// Maximum number of images in all templates.
    pub images: usize,
    /// Maximum number of values in one document, keys and those repeated by aliases included. One
    /// value takes about 100 bytes while the document is read.
    pub values: usize,
    /// Maximum time.
    pub max_duration: Duration,
}

impl ManifestLimits {
    /// Limits for callers of a server. The output of a large chart has a hundred objects and ten
    /// thousand values. A body is smaller than the limit of bytes.
    pub const SERVER: Self = Self {
        bytes: 4 * 1024 * 1024,
        objects: 500,
        templates: 200,
        images: 1000,
        values: 60_000,
        max_duration: Duration::from_secs(2),
    };
    /// Limits for the command line on a local machine. A list of 20 MB in one document has about 2
    /// million values with keys, of 10 bytes each.
    pub const LOCAL: Self = Self {
        bytes: 20 * 1024 * 1024,
        objects: 100_000,
        templates: 100_000,
        images: 1_000_000,
        values: 4_000_000,
        max_duration: Duration::from_secs(600),
    };
}

/// Error that ends the reading of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExtractError {
    /// A limit is exceeded; contains the limit and its unit.
    #[error("the manifest has more than {0} {1}; split it into smaller manifests")]
    TooMany(usize, &'static str),
    /// The time limit is exceeded.
    #[error("reading the manifest took more than {} s; split it into smaller manifests", .0.as_secs())]
    TooSlow(Duration),
}

/// Workload of a manifest.
#[derive(Debug)]
pub(in crate::workload) struct ReadWorkload {
    /// Object as `Kind/name`.
    pub(in crate::workload) title: String,
    pub(in crate::workload) kind: Arc<WorkloadKind>,
    pub(in crate::workload) view: ObjectView,
}

/// Objects of the files that were read, and what could not be read.
#[derive(Debug)]
pub struct ParsedManifest {
    pub(in crate::workload) workloads: Vec<ReadWorkload>,
    pub(in crate::workload) skipped: Vec<String>,
    pub(in crate::workload) errors: Vec<Finding<DocumentError>>,
    pub(in crate::workload) warnings: Vec<Finding<DocumentWarning>>,
    pub(in crate::workload) limits: ManifestLimits,
    context: ContextObjects,
    bytes: usize,
    objects: usize,
    started_at: Instant,
}

/// Document that is being added.
struct DocumentReader<'m> {
    manifest: &'m mut ParsedManifest,
    kinds: &'m WorkloadKinds,
    /// Findings about fields. Their lines are determined in one pass, at the end.
    errors: Vec<(FieldPath, DocumentError)>,
    warnings: Vec<(FieldPath, DocumentWarning)>,
}

/// Object that is being added: its path in the document, and API version and kind for an item of a
/// typed list that has none.
#[derive(Default)]
struct Item {
    path: FieldPath,
    api_version: String,
    kind: String,
}

impl ParsedManifest {
    /// Creates a manifest without files.
    #[must_use]
    pub fn new(limits: ManifestLimits) -> Self {
        Self {
            workloads: Vec::new(),
            skipped: Vec::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
            limits,
            context: ContextObjects::default(),
            bytes: 0,
            objects: 0,
            started_at: Instant::now(),
        }
    }

    /// Reads a file: YAML or JSON, with several documents and lists. `source` is its name in
    /// findings; empty if there is only one text. What cannot be read is recorded; the error is
    /// that of a limit on the whole manifest.
    pub fn read(
        &mut self,
        source: &str,
        bytes: &[u8],
        kinds: &WorkloadKinds,
    ) -> Result<(), ExtractError> {
        self.bytes = self.bytes.saturating_add(bytes.len());
        if self.bytes > self.limits.bytes {
            return Err(ExtractError::TooMany(self.limits.bytes, "bytes"));
        }
        let (text, replaced) = decode(bytes);
        let mut place = Place { source: source.into(), ..Place::default() };
        if replaced {
            let what = DocumentWarning::InvalidText;
            self.warnings.push(Finding { place: place.clone(), what });
        }
        for document in documents(&text) {
            parse_document(document, self.limits.values, |parsed| {
                place.document = place.document.saturating_add(1);
                place.line = Some(parsed.first_line());
                self.add_document(parsed, &place, kinds)
            })?;
        }
        self.check_time_limit()
    }

    /// Reports whether nothing was read: no object, and no document that is invalid.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects == 0
    }

    /// Returns the namespaces of the workloads. Workloads without a namespace are in `default`.
    #[must_use]
    pub fn namespaces(&self, default: &str) -> BTreeSet<String> {
        let namespace = |workload: &ReadWorkload| match workload.view.metadata.namespace.as_str() {
            "" => default.to_owned(),
            name => name.to_owned(),
        };
        self.workloads.iter().map(namespace).collect()
    }

    /// Returns the cluster context of the manifest over `base`, once.
    pub(in crate::workload) fn take_context<'a>(
        &mut self,
        base: &'a dyn ClusterContext,
        default: &str,
    ) -> ManifestContext<'a> {
        std::mem::take(&mut self.context).over(base, default)
    }

    pub(in crate::workload) fn check_time_limit(&self) -> Result<(), ExtractError> {
        if self.started_at.elapsed() > self.limits.max_duration {
            Err(ExtractError::TooSlow(self.limits.max_duration))
        } else {
            Ok(())
        }
    }

    fn count_object(&mut self) -> Result<(), ExtractError> {
        self.objects = self.objects.saturating_add(1);
        if self.objects > self.limits.objects {
            return Err(ExtractError::TooMany(self.limits.objects, "objects"));
        }
        self.check_time_limit()
    }

    fn add_document(
        &mut self,
        mut parsed: Parsed<'_>,
        place: &Place,
        kinds: &WorkloadKinds,
    ) -> Result<(), ExtractError> {
        let repeated = std::mem::take(&mut parsed.repeated).into_iter();
        let mut reader = DocumentReader {
            manifest: self,
            kinds,
            errors: Vec::new(),
            warnings: repeated.map(|path| (path, DocumentWarning::RepeatedKey)).collect(),
        };
        let added = match std::mem::replace(&mut parsed.value, Ok(Value::Null)) {
            Ok(Value::Null) => Ok(()),
            Ok(value) => reader.add_object(value, Item::default()),
            Err((what, line)) => {
                let place = place.in_field(line, &parsed.path);
                reader.manifest.errors.push(Finding { place, what });
                reader.manifest.count_object()
            }
        };
        let DocumentReader { errors, warnings, .. } = reader;
        self.errors.extend(locate(&parsed, place, errors));
        self.warnings.extend(locate(&parsed, place, warnings));
        added
    }
}

/// Returns findings with their places in the file.
fn locate<T>(parsed: &Parsed<'_>, place: &Place, found: Vec<(FieldPath, T)>) -> Vec<Finding<T>> {
    if found.is_empty() {
        return Vec::new();
    }
    let (paths, found): (Vec<FieldPath>, Vec<T>) = found.into_iter().unzip();
    let lines = parsed.lines_of(&paths).into_iter();
    let finding = |((what, path), line): ((T, &FieldPath), Option<usize>)| Finding {
        place: place.in_field(line, path),
        what,
    };
    found.into_iter().zip(&paths).zip(lines).map(finding).collect()
}

impl DocumentReader<'_> {
    /// Adds an object, or the items of a list. The depth of lists in lists is that of the document.
    fn add_object(&mut self, value: Value, item: Item) -> Result<(), ExtractError> {
        self.manifest.count_object()?;
        let Value::Object(mut fields) = value else {
            self.errors.push((item.path, DocumentError::NotAnObject(kind_of(&value))));
            return Ok(());
        };
        let item = match with_own_type(item, &fields) {
            Ok(item) => item,
            Err(error) => {
                self.errors.push(error);
                return Ok(());
            }
        };
        let Some(Value::Array(items)) = fields.get_mut("items").map(Value::take) else {
            self.add_single(&Value::Object(fields), item);
            return Ok(());
        };
        // Items of a plain `List` have their own types.
        let (api_version, kind) = match item.kind.strip_suffix("List").unwrap_or(&item.kind) {
            "" => (String::new(), String::new()),
            kind => (item.api_version.clone(), kind.to_owned()),
        };
        for (index, value) in items.into_iter().enumerate() {
            let mut path = item.path.clone();
            path.0.extend([Step::Key("items".into()), Step::Index(index)]);
            let (api_version, kind) = (api_version.clone(), kind.clone());
            self.add_object(value, Item { path, api_version, kind })?;
        }
        Ok(())
    }

    fn add_single(&mut self, object: &Value, item: Item) {
        let Item { path, api_version, kind: kind_name } = item;
        self.manifest.context.add(&api_version, &kind_name, object);
        let title = title(&kind_name, object);
        let Some(kind) = self.kinds.find_by_api_version(&api_version, &kind_name) else {
            let warning = skipped_warning(self.kinds, &api_version, &kind_name, &title, object);
            self.warnings.extend(warning.map(|what| (path, what)));
            self.manifest.skipped.push(title);
            return;
        };
        match kind.parse_located(object) {
            Ok(view) => {
                if view.has_image(|image| image.contains("{{")) {
                    self.warnings.push((path, DocumentWarning::UnrenderedTemplate));
                }
                let kind = Arc::clone(kind);
                self.manifest.workloads.push(ReadWorkload { title, kind, view });
            }
            Err(error) => {
                let what = wrong_type(object, &FieldPath::default().join(error.path()));
                self.errors.push((path.join(error.path()), what));
            }
        }
    }
}

/// Returns the item with the API version and kind of its own fields, where it has them. The API
/// version is empty if there is none.
fn with_own_type(
    item: Item,
    fields: &Map<String, Value>,
) -> Result<Item, (FieldPath, DocumentError)> {
    let own = |key: &str, inherited: String| match fields.get(key) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
        None | Some(Value::Null | Value::String(_)) => Ok(inherited),
        Some(_) => {
            let own = FieldPath(vec![Step::Key(key.to_owned())]);
            let what = wrong_type(&Value::Object(fields.clone()), &own);
            let mut path = item.path.clone();
            path.0.extend(own.0);
            Err((path, what))
        }
    };
    let kind = own("kind", item.kind)?;
    let api_version = own("apiVersion", item.api_version)?;
    if kind.is_empty() {
        return Err((item.path, DocumentError::NoKind));
    }
    Ok(Item { path: item.path, api_version, kind })
}

/// Returns an object's title, `Kind/name`, with the prefix of a generated name.
fn title(kind: &str, object: &Value) -> String {
    let name = match string_at(object, "/metadata/name") {
        name if name.is_empty() => string_at(object, "/metadata/generateName"),
        name => name,
    };
    let short = |text: &str| text.chars().take(MAX_NAME).collect::<String>();
    format!("{}/{}", short(kind), short(&name))
}
