//! Decoding of the bytes of a manifest to text, as kubectl does it: a byte order mark selects the
//! encoding, and invalid bytes are replaced.

use std::borrow::Cow;

/// Byte order mark of UTF-8.
const UTF_8: &[u8] = b"\xEF\xBB\xBF";
/// Byte order mark of UTF-16, most significant byte first.
const UTF_16_BE: &[u8] = b"\xFE\xFF";
/// Byte order mark of UTF-16, least significant byte first.
const UTF_16_LE: &[u8] = b"\xFF\xFE";
/// Byte order mark of UTF-32, most significant byte first.
const UTF_32_BE: &[u8] = b"\x00\x00\xFE\xFF";
/// Byte order mark of UTF-32, least significant byte first. It starts with that of UTF-16.
const UTF_32_LE: &[u8] = b"\xFF\xFE\x00\x00";

/// Decodes UTF-8, and UTF-16 or UTF-32 with a byte order mark. UTF-16 without one is recognized by
/// the zero byte of its first character, which is ASCII in every manifest. The second value reports
/// whether bytes were invalid: each was replaced by U+FFFD.
pub(super) fn decode(bytes: &[u8]) -> (Cow<'_, str>, bool) {
    if let Some(rest) = bytes.strip_prefix(UTF_8) {
        return decode_utf8(rest);
    }
    if let Some(rest) = bytes.strip_prefix(UTF_32_LE) {
        return decode_utf32(rest, u32::from_le_bytes);
    }
    if let Some(rest) = bytes.strip_prefix(UTF_32_BE) {
        return decode_utf32(rest, u32::from_be_bytes);
    }
    if let Some(rest) = bytes.strip_prefix(UTF_16_LE) {
        return decode_utf16(rest, u16::from_le_bytes);
    }
    if let Some(rest) = bytes.strip_prefix(UTF_16_BE) {
        return decode_utf16(rest, u16::from_be_bytes);
    }
    match bytes {
        [first, 0, ..] if *first != 0 => decode_utf16(bytes, u16::from_le_bytes),
        [0, second, ..] if *second != 0 => decode_utf16(bytes, u16::from_be_bytes),
        _ => decode_utf8(bytes),
    }
}

fn decode_utf8(bytes: &[u8]) -> (Cow<'_, str>, bool) {
    let text = String::from_utf8_lossy(bytes);
    let replaced = matches!(text, Cow::Owned(_));
    (text, replaced)
}

fn decode_utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> (Cow<'static, str>, bool) {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let mut replaced = !rest.is_empty();
    let text = char::decode_utf16(pairs.iter().map(|pair| unit(*pair)))
        .map(|one| one.unwrap_or_else(|_| replace(&mut replaced)))
        .collect();
    (Cow::Owned(text), replaced)
}

fn decode_utf32(bytes: &[u8], unit: fn([u8; 4]) -> u32) -> (Cow<'static, str>, bool) {
    let (units, rest) = bytes.as_chunks::<4>();
    let mut replaced = !rest.is_empty();
    let text = units
        .iter()
        .map(|one| char::from_u32(unit(*one)).unwrap_or_else(|| replace(&mut replaced)))
        .collect();
    (Cow::Owned(text), replaced)
}

fn replace(replaced: &mut bool) -> char {
    *replaced = true;
    char::REPLACEMENT_CHARACTER
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const TEXT: &str = "kind: Päd 🚀\n";

    fn utf16(mark: &[u8], bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        mark.iter().copied().chain(TEXT.encode_utf16().flat_map(bytes)).collect()
    }

    fn utf32(mark: &[u8], bytes: fn(u32) -> [u8; 4]) -> Vec<u8> {
        mark.iter().copied().chain(TEXT.chars().flat_map(|one| bytes(one.into()))).collect()
    }

    #[rstest]
    #[case::utf_8(TEXT.as_bytes().to_vec())]
    #[case::utf_8_with_mark([UTF_8, TEXT.as_bytes()].concat())]
    #[case::utf_16_le(utf16(UTF_16_LE, u16::to_le_bytes))]
    #[case::utf_16_be(utf16(UTF_16_BE, u16::to_be_bytes))]
    #[case::utf_16_le_without_mark(utf16(&[], u16::to_le_bytes))]
    #[case::utf_16_be_without_mark(utf16(&[], u16::to_be_bytes))]
    #[case::utf_32_le(utf32(UTF_32_LE, u32::to_le_bytes))]
    #[case::utf_32_be(utf32(UTF_32_BE, u32::to_be_bytes))]
    fn encodings_are_decoded(#[case] bytes: Vec<u8>) {
        assert_eq!(decode(&bytes), (Cow::Borrowed(TEXT), false));
    }

    #[rstest]
    #[case::latin_1(b"# \xE9\n", "# \u{FFFD}\n")]
    #[case::half_a_unit(b"\xFF\xFEa\0b", "a")]
    #[case::lone_surrogate(b"\xFE\xFF\xD8\x00\x00a", "\u{FFFD}a")]
    #[case::no_character(b"\x00\x00\xFE\xFF\x00\x11\x00\x00", "\u{FFFD}")]
    fn invalid_bytes_are_replaced(#[case] bytes: &[u8], #[case] expected: &str) {
        assert_eq!(decode(bytes), (Cow::Borrowed(expected), true));
    }

    #[test]
    fn nothing_is_nothing() {
        for bytes in [b"".as_slice(), b"\xFF\xFE", b"\xEF\xBB\xBF"] {
            assert_eq!(decode(bytes), (Cow::Borrowed(""), false));
        }
    }
}
