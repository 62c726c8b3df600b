//! Bodies of requests, read as KES reads them: member names in any case, base64 with line ends.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use zeroize::{Zeroize as _, Zeroizing};

/// A body that is not a JSON object, or that has a member of the wrong type.
#[derive(Debug)]
pub struct Malformed;

/// Reads the members `names` of a JSON object. Each of them is a string.
///
/// A member that is absent or `null` is `None`, and so is every member of a body that is `null`. Names match in any
/// case. Unknown members are skipped. Unlike in KES, three things are errors: a member that occurs twice, text after
/// the object, and nesting deeper than 128 levels.
pub fn members<'a, const N: usize>(
    body: &'a [u8],
    names: [&'static str; N],
) -> Result<[Text<'a>; N], Malformed> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let members = Members { names }.deserialize(&mut deserializer).map_err(|_| Malformed)?;
    deserializer.end().map_err(|_| Malformed)?;
    Ok(members)
}

/// Reads an array of at most `limit` objects. Each object is read as by [`members`].
pub fn array_of_members<'a, const N: usize>(
    body: &'a [u8],
    names: [&'static str; N],
    limit: usize,
) -> Result<Vec<[Text<'a>; N]>, Malformed> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let objects = deserializer.deserialize_seq(Objects { names, limit }).map_err(|_| Malformed)?;
    deserializer.end().map_err(|_| Malformed)?;
    Ok(objects)
}

/// A string member of a request. It is borrowed from the body unless it has escapes.
#[derive(Default)]
pub struct Text<'a>(Option<Cow<'a, str>>);

impl Text<'_> {
    /// Returns whether the member is there and not `null`.
    pub fn is_present(&self) -> bool {
        self.0.is_some()
    }

    /// Returns the text, or an empty text if there is none.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }

    /// Decodes standard base64. As in Go, line ends may stand between its characters. No text decodes to no bytes.
    pub fn decode(&self) -> Result<Zeroizing<Vec<u8>>, Malformed> {
        let text = self.as_str().as_bytes();
        let decoded = if text.iter().any(|&byte| is_line_end(byte)) {
            let joined: Zeroizing<Vec<u8>> =
                Zeroizing::new(text.iter().copied().filter(|&byte| !is_line_end(byte)).collect());
            BASE64.decode(&*joined)
        } else {
            BASE64.decode(text)
        };
        decoded.map(Zeroizing::new).map_err(|_| Malformed)
    }
}

impl Drop for Text<'_> {
    fn drop(&mut self) {
        if let Some(Cow::Owned(text)) = &mut self.0 {
            text.zeroize();
        }
    }
}

/// Go's decoder ignores the bits after the last byte.
pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

fn is_line_end(byte: u8) -> bool {
    byte == b'\r' || byte == b'\n'
}

struct Members<const N: usize> {
    names: [&'static str; N],
}

impl<'de, const N: usize> DeserializeSeed<'de> for Members<N> {
    type Value = [Text<'de>; N];

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Members<N> {
    type Value = [Text<'de>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(std::array::from_fn(|_| Text::default()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members: Self::Value = std::array::from_fn(|_| Text::default());
        let mut seen = [false; N];
        while let Some(Name(name)) = map.next_key()? {
            match self.names.iter().position(|known| known.eq_ignore_ascii_case(&name)) {
                Some(at) if seen[at] => return Err(A::Error::custom("a member occurs twice")),
                Some(at) => {
                    seen[at] = true;
                    members[at] = map.next_value()?;
                }
                None => {
                    map.next_value::<Skipped>()?;
                }
            }
        }
        Ok(members)
    }
}

struct Objects<const N: usize> {
    names: [&'static str; N],
    limit: usize,
}

impl<'de, const N: usize> Visitor<'de> for Objects<N> {
    type Value = Vec<[Text<'de>; N]>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array of at most {} objects", self.limit)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut objects = Vec::new();
        while let Some(object) = seq.next_element_seed(Members { names: self.names })? {
            if objects.len() == self.limit {
                return Err(A::Error::custom("too many objects"));
            }
            objects.push(object);
        }
        Ok(objects)
    }
}

struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;

        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }

        deserializer.deserialize_str(NameVisitor)
    }
}

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Some(Cow::Borrowed(text))))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Some(Cow::Owned(text.to_owned()))))
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Text(None))
            }
        }

        deserializer.deserialize_any(TextVisitor)
    }
}

/// A value of an unknown member. serde's own `IgnoredAny` would accept nesting of any depth.
struct Skipped;

impl<'de> Deserialize<'de> for Skipped {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Skipped {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self, A::Error> {
        while seq.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        while map.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(body: &str) -> Result<Vec<u8>, Malformed> {
        let [context] = members(body.as_bytes(), ["context"])?;
        context.decode().map(|bytes| bytes.to_vec())
    }

    #[test]
    fn members_are_read_as_go_reads_them() {
        assert_eq!(context(r#"{"context":"aGk="}"#).unwrap(), b"hi");
        assert_eq!(context(r#" {"ConText" : "aGk=" } "#).unwrap(), b"hi");
        assert_eq!(context(r#"{"x":[1,{"y":[null,true,1.5,-2]}],"context":"aGk=","z":{}}"#).unwrap(), b"hi");
        assert_eq!(context("{\"context\":\"a\\r\\nGk\\u003d\"}").unwrap(), b"hi");
        assert_eq!(context(r#"{"context":"aGl="}"#).unwrap(), b"hi", "bits after the last byte");
        for absent in ["{}", "null", r#"{"context":null}"#, r#"{"context":""}"#] {
            assert_eq!(context(absent).unwrap(), b"", "{absent}");
        }
    }

    #[test]
    fn arrays_of_objects_are_bounded() {
        let read = |body: &str| {
            let objects = array_of_members(body.as_bytes(), ["a"], 2).map_err(|_| ())?;
            Ok::<_, ()>(objects.iter().map(|[a]| a.as_str().to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(read("[]").unwrap(), [""; 0]);
        assert_eq!(read(r#"[{"a":"x","b":1},{"A":"y"}]"#).unwrap(), ["x", "y"]);
        for bad in ["", "{}", "null", "[1]", r#"[{"a":"x"}"#, "[{},{},{}]", "[] []", "[[]]"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let deep = format!(r#"{{"x":{}{}}}"#, "[".repeat(200), "]".repeat(200));
        for bad in [
            "",
            "[]",
            "7",
            "\"\"",
            "{",
            "{}{}",
            "{} {}",
            r#"{"context":5}"#,
            r#"{"context":[104]}"#,
            r#"{"context":{}}"#,
            r#"{"context":"aGk"}"#,
            r#"{"context":"aG k="}"#,
            r#"{"context":"aGk_"}"#,
            r#"{"context":"%"}"#,
            r#"{"context":"aGk=","Context":"aGk="}"#,
            r#"{"context":"aGk=",}"#,
            "{\"context\":\"\u{1}\"}",
            deep.as_str(),
        ] {
            assert!(context(bad).is_err(), "{bad}");
        }
    }
}
