//! Messages for errors of the YAML parser.

use serde_saphyr::{Error, ExternalMessageSource, budget::BudgetBreach, granit_parser::ErrorKind};

use super::{problem::DocumentError, value::MAX_DEPTH};

/// Returns the error of a document for an error of the YAML parser. `max_values` is the limit with
/// which the document was read, and `template` whether it contains `{{`.
pub(super) fn document_error(error: &Error, max_values: usize, template: bool) -> DocumentError {
    let syntax = |what| DocumentError::Syntax { what, template };
    match error.without_snippet() {
        Error::AliasError { error, .. } => document_error(error, max_values, template),
        Error::ExternalMessage { source, .. } => match &**source {
            ExternalMessageSource::Parser(error) => scan_error(error.kind(), template),
            _ => syntax(INVALID),
        },
        Error::Budget { breach, .. } => budget_error(breach, max_values),
        Error::AliasReplayCounterOverflow { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => DocumentError::TooManyAliases,
        Error::UnknownAnchor { .. } => syntax(UNKNOWN_ANCHOR),
        Error::RecursiveReferencesRequireWeakTypes { .. } => syntax("an alias contains itself"),
        Error::MergeValueNotMapOrSeqOfMaps { .. } => {
            syntax("the value of the merge key << is not an object or a list of objects")
        }
        Error::MultipleDocuments { .. } => syntax("unexpected text after the end of the document"),
        Error::Unexpected { .. } | Error::NullIntoString { .. } => {
            syntax("a key of an object is not text")
        }
        Error::InvalidBinaryBase64 { .. } | Error::BinaryNotUtf8 { .. } => {
            syntax("the value with the tag !!binary is not base64 of text")
        }
        Error::InvalidScalar { .. } | Error::TaggedScalarCannotDeserializeIntoString { .. } => {
            syntax("the value does not fit its tag")
        }
        _ => syntax(INVALID),
    }
}

const INVALID: &str = "the text is neither valid YAML nor JSON";
const UNKNOWN_ANCHOR: &str = "an alias (*NAME) names an anchor (&NAME) that is not defined above \
                              it in this document";

/// Returns the parser's own error, if it is one.
pub(super) fn parser_error(error: &Error) -> Option<&ErrorKind> {
    match error.without_snippet() {
        Error::ExternalMessage { source, .. } => match &**source {
            ExternalMessageSource::Parser(error) => Some(error.kind()),
            _ => None,
        },
        _ => None,
    }
}

fn budget_error(breach: &BudgetBreach, max_values: usize) -> DocumentError {
    match breach {
        BudgetBreach::Depth { .. } => DocumentError::TooDeep(MAX_DEPTH),
        BudgetBreach::Aliases { .. }
        | BudgetBreach::ScalarBytes { .. }
        | BudgetBreach::Anchors { .. }
        | BudgetBreach::MergeKeys { .. }
        | BudgetBreach::AliasAnchorRatio { .. }
        | BudgetBreach::RecordedAnchorEvents { .. }
        | BudgetBreach::RecordedAnchorBytes { .. } => DocumentError::TooManyAliases,
        _ => DocumentError::TooManyValues(max_values),
    }
}

fn scan_error(kind: &ErrorKind, template: bool) -> DocumentError {
    if *kind == ErrorKind::RecursionLimitExceeded {
        return DocumentError::TooDeep(MAX_DEPTH);
    }
    DocumentError::Syntax { what: scan_message(kind), template }
}

/// Returns the message for an error in the structure of a document, or in its values.
fn scan_message(kind: &ErrorKind) -> &'static str {
    structure_message(kind).or_else(|| value_message(kind)).unwrap_or(INVALID)
}

fn structure_message(kind: &ErrorKind) -> Option<&'static str> {
    use ErrorKind as E;
    let message = match kind {
        E::UnclosedFlowCollection { .. }
        | E::UnexpectedEofFlowSequence
        | E::UnexpectedEofFlowMapping
        | E::UnexpectedEofImplicitFlowMapping => "a [ or { is not closed",
        E::ExpectedFlowMappingSeparator
        | E::ExpectedFlowSequenceSeparator
        | E::MisplacedFlowCollectionEnd
        | E::MismatchedFlowCollectionEnd { .. } => {
            "a comma or the matching closing bracket of a [ or { is missing"
        }
        E::TabNotAllowed
        | E::TabInBlockIndentation
        | E::TabInIndentation
        | E::TabAtBlockScalarStart
        | E::TabInPlainScalar => "a tab is used as indentation: use spaces",
        E::ExpectedBlockMappingKey
        | E::ExpectedBlockSequenceEntry
        | E::InvalidIndentation
        | E::InvalidBlockScalarIndent
        | E::InvalidFlowScalarIndent
        | E::BlockSequenceEntryNotAllowed => {
            "the indentation does not match that of the lines above"
        }
        E::MappingValueNotAllowed
        | E::MappingKeyNotAllowed
        | E::InvalidColonPlacement
        | E::InvalidSimpleKey => {
            "unexpected colon: the indentation is wrong, or a value with \": \" needs quotes"
        }
        E::SimpleKeyExpected => "a colon after a key is missing",
        E::DuplicateVersionDirective
        | E::UnsupportedYamlMajorVersion
        | E::DuplicateTagDirective
        | E::ExpectedDocumentStart
        | E::MissingDocumentEndBeforeDirective
        | E::InvalidDirectiveTerminator
        | E::MissingDirectiveName
        | E::InvalidDirectiveName => "an invalid directive (a line that starts with %)",
        E::BomInsideDocument => "a byte order mark inside the document",
        _ => return None,
    };
    Some(message)
}

fn value_message(kind: &ErrorKind) -> Option<&'static str> {
    use ErrorKind as E;
    let message = match kind {
        // The lines of a closed text have been indented before.
        E::UnclosedQuotedScalar
        | E::DocumentIndicatorInQuotedScalar
        | E::InvalidQuotedScalarIndent => "a quoted text is not closed",
        E::CommentNotSeparated => "a comment needs a space before #",
        E::InvalidTrailingSingleQuotedScalar | E::InvalidTrailingDoubleQuotedScalar => {
            "unexpected text after a closing quote"
        }
        E::UnexpectedCharacter { .. } => {
            "a value starts with a reserved character: put it in quotes"
        }
        E::UnknownQuotedScalarEscape
        | E::InvalidQuotedScalarHexEscape
        | E::InvalidLowSurrogateHexEscape
        | E::InvalidLowSurrogate
        | E::MissingLowSurrogate
        | E::UnpairedLowSurrogate
        | E::InvalidUnicodeEscape => {
            "unknown escape sequence in a text in double quotes: write \\\\ for a backslash"
        }
        E::UnknownAnchor => UNKNOWN_ANCHOR,
        E::UndeclaredTagHandle
        | E::InvalidTagTerminator
        | E::MissingTagUri
        | E::UnclosedVerbatimTag => "a value starts with an invalid tag: put it in quotes",
        E::MissingAnchorOrAliasName => "a value starts with * or &: put it in quotes",
        E::InvalidBlockScalarHeader | E::ZeroBlockScalarIndent => {
            "unexpected text after | or >: put the value in quotes"
        }
        _ => return None,
    };
    Some(message)
}
