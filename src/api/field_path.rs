//! Path of a value in a JSON document, as field names (`notify[0].url`) and as a JSON pointer of
//! RFC 6901 (`/notify/0/url`). Pure: no client, no clock, no I/O.

use std::fmt;

use serde_json::Value;

/// Step from a value to one of its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    /// Field of an object.
    Name(String),
    /// Element of a list.
    Index(usize),
    /// Key of a map, which may contain any character.
    Key(String),
}

/// Path of a value in a document; empty for the entire document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FieldPath(Vec<Segment>);

impl FieldPath {
    /// Parses a path of field names such as `notify[0].url`. A key of a map is in brackets, and is
    /// the last part: `nodeSelector[example.com/zone]`.
    pub(super) fn parse(field: &str) -> Self {
        let (mut path, mut rest) = (Self::default(), field);
        while !rest.is_empty() {
            let Some(inner) = rest.strip_prefix('[') else {
                let end = rest.find(['.', '[']).unwrap_or(rest.len());
                path.0.push(Segment::Name(rest[..end].to_owned()));
                rest = rest[end..].strip_prefix('.').unwrap_or(&rest[end..]);
                continue;
            };
            let Some((index, after)) = split_index(inner) else {
                path.0.push(Segment::Key(inner.strip_suffix(']').unwrap_or(inner).to_owned()));
                break;
            };
            path.0.push(Segment::Index(index));
            rest = after.strip_prefix('.').unwrap_or(after);
        }
        path
    }

    /// Parses a JSON pointer into `document`, which determines whether a number is the index of a
    /// list or a field.
    pub(super) fn from_pointer(pointer: &str, document: &Value) -> Self {
        let mut path = Self::default();
        let mut value = Some(document);
        for token in pointer.split('/').skip(1) {
            let name = unescape_token(token);
            let index = name.parse::<usize>().ok();
            if let (Some(Value::Array(items)), Some(index)) = (value, index) {
                value = items.get(index);
                path.0.push(Segment::Index(index));
            } else {
                value = value.and_then(|value| value.get(&name));
                path.0.push(Segment::Name(name));
            }
        }
        path
    }

    /// Returns the JSON pointer.
    pub(super) fn pointer(&self) -> String {
        let mut pointer = String::new();
        for segment in &self.0 {
            pointer.push('/');
            match segment {
                Segment::Name(name) | Segment::Key(name) => pointer.push_str(&escape_token(name)),
                Segment::Index(index) => pointer.push_str(&index.to_string()),
            }
        }
        pointer
    }

    /// Returns the pointer of the last list element on the path, or of the path without one.
    pub(super) fn element_pointer(&self) -> String {
        let is_index = |segment: &Segment| matches!(segment, Segment::Index(_));
        let last = self.0.iter().rposition(is_index);
        let length = last.map_or(self.0.len(), |last| last.saturating_add(1));
        Self(self.0.iter().take(length).cloned().collect()).pointer()
    }

    /// Replaces the index of each list element by what `index` returns for it and for the pointer
    /// of its list.
    pub(super) fn map_indices(self, index: impl Fn(&str, usize) -> usize) -> Self {
        let mut path = Self::default();
        for segment in self.0 {
            let segment = match segment {
                Segment::Index(old) => Segment::Index(index(&path.pointer(), old)),
                other => other,
            };
            path.0.push(segment);
        }
        path
    }
}

/// Splits `0].url` into the index and the part after it; `None` when it is a key of a map.
fn split_index(text: &str) -> Option<(usize, &str)> {
    let (digits, after) = text.split_once(']')?;
    let is_end = after.is_empty() || after.starts_with(['.', '[']);
    digits.parse().ok().filter(|_| is_end).map(|index| (index, after))
}

/// Escapes a field name for a JSON pointer.
pub(super) fn escape_token(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Returns the field name of a part of a JSON pointer.
pub(super) fn unescape_token(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

/// Reports whether a pointer is `outer` or points into it.
pub(super) fn is_within(pointer: &str, outer: &str) -> bool {
    pointer.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Name(name) if position == 0 => f.write_str(name)?,
                Segment::Name(name) => write!(f, ".{name}")?,
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Key(key) => write!(f, "[{key}]")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case("", "")]
    #[case("images", "/images")]
    #[case("images[12]", "/images/12")]
    #[case("notify[0].urlFrom.secretKeyRef.key", "/notify/0/urlFrom/secretKeyRef/key")]
    #[case("nodeSelector[example.com/a~b]", "/nodeSelector/example.com~1a~0b")]
    #[case("taskConfig.nodeSelector[a].b]", "/taskConfig/nodeSelector/a].b")]
    fn field_names_have_a_pointer(#[case] field: &str, #[case] pointer: &str) {
        let path = FieldPath::parse(field);
        assert_eq!(path.pointer(), pointer);
        assert_eq!(path.to_string(), field);
    }

    #[rstest]
    #[case("", "")]
    #[case("/a/1", "a[1]")]
    #[case("/b/1", "b.1")]
    #[case("/b/c~1d/e", "b.c/d.e")]
    #[case("/none/1", "none.1")]
    fn pointers_have_field_names(#[case] pointer: &str, #[case] field: &str) {
        let document = json!({"a": [0, 1], "b": {"1": 2, "c/d": {}}});
        let path = FieldPath::from_pointer(pointer, &document);
        assert_eq!(path.to_string(), field);
        assert_eq!(path.pointer(), pointer);
    }

    #[test]
    fn indices_are_replaced_per_list() {
        let path = FieldPath::parse("a[1].b[2].c");
        assert_eq!(path.element_pointer(), "/a/1/b/2");
        let path = path.map_indices(|list, index| if list == "/a" { index + 5 } else { index });
        assert_eq!(path.to_string(), "a[6].b[2].c");
    }

    #[test]
    fn pointer_is_within_its_parents() {
        assert!(is_within("/a/1", "/a/1") && is_within("/a/1", "/a") && is_within("/a", ""));
        assert!(!is_within("/ab", "/a") && !is_within("/a", "/a/1"));
    }
}
