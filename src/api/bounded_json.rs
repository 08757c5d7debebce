//! Parser of JSON with a bounded number of values. Pure: no client, no clock, no I/O.
//!
//! A [`Value`] takes at least 32 bytes, whatever it holds: a body of 1 MiB of `0,0,0,...` would be
//! half a million of them.

use std::{cell::Cell, fmt};

use serde::{
    Deserializer,
    de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

/// Largest number of values in a body. A task of 100 images with all fields set has a few thousand.
pub(super) const MAX_VALUES: usize = 20_000;

/// Parses JSON of at most `most` values; field names count too.
pub(super) fn parse(bytes: &[u8], most: usize) -> Result<Value, serde_json::Error> {
    let left = Cell::new(most);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = BoundedSeed { left: &left, most }.deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// Checks that JSON contains at most `most` values; field names count too.
pub(super) fn check(value: &Value, most: usize) -> Result<(), serde_json::Error> {
    BoundedSeed { left: &Cell::new(most), most }.deserialize(value).map(drop)
}

/// Deserializer seed that counts values down as they are read.
#[derive(Clone, Copy)]
struct BoundedSeed<'a> {
    left: &'a Cell<usize>,
    most: usize,
}

impl BoundedSeed<'_> {
    fn count_value<E: Error>(&self) -> Result<(), E> {
        let left = self.left.get().checked_sub(1);
        let left =
            left.ok_or_else(|| E::custom(format!("it contains more than {} values", self.most)))?;
        self.left.set(left);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for BoundedSeed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.count_value()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for BoundedSeed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            self.count_value()?;
            map.insert(name, fields.next_value_seed(self)?);
        }
        Ok(map.into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn result_equals_that_of_serde_json() {
        let value = json!({"a": [1, -2, 2.5, "x", null, true], "b": {"c": {}}, "d": []});
        assert_eq!(parse(value.to_string().as_bytes(), 100).unwrap(), value);
        for wrong in ["", "{", "{} x", "[1,]"] {
            assert!(parse(wrong.as_bytes(), 100).is_err(), "{wrong}");
        }
    }

    #[test]
    fn more_values_than_permitted_are_refused() {
        assert!(parse(b"[0,0,0]", 4).is_ok());
        let error = parse(b"[0,0,0]", 3).unwrap_err().to_string();
        assert!(error.contains("it contains more than 3 values"), "{error}");
        assert!(parse(b"{\"a\":0}", 3).is_ok());
        assert!(parse(b"{\"a\":0}", 2).is_err());
        let large = format!("[{}0]", "0,".repeat(500_000));
        assert!(parse(large.as_bytes(), MAX_VALUES).is_err());
    }
}
