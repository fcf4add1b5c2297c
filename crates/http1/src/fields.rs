//! Header fields, copied out of the bytes that they came in. A head keeps its own, in memory that is used again.
//! It never judges a value: whoever reads a field does.

/// Header fields in their order, names in lower case.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    names: String,
    values: Vec<u8>,
    /// Where each field's name and value end; they begin where those of the field before end.
    ends: Vec<(usize, usize)>,
}

impl Fields {
    /// Forgets all of them, and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.names.clear();
        self.values.clear();
        self.ends.clear();
    }

    pub(crate) fn push(&mut self, name: &str, value: &[u8]) {
        let start = self.names.len();
        self.names.push_str(name);
        self.names[start..].make_ascii_lowercase();
        self.values.extend_from_slice(value);
        self.ends.push((self.names.len(), self.values.len()));
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let mut starts = (0, 0);
        self.ends.iter().map(move |ends| {
            let field = (&self.names[starts.0..ends.0], &self.values[starts.1..ends.1]);
            starts = *ends;
            field
        })
    }

    /// The first field of a name, which is given in lower case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(own, _)| *own == name).map(|(_, value)| value)
    }

    /// Whether there is a field of this name, which is given in lower case.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Whether a field belongs to the connection, not to what is sent over it: by its name, or since `Connection` names it.
    /// `connected`: there is a field `Connection`.
    #[must_use]
    pub fn is_of_connection(&self, name: &str, connected: bool) -> bool {
        is_hop_by_hop(name) || connected && self.is_named_by_connection(name)
    }

    fn is_named_by_connection(&self, name: &str) -> bool {
        let values = self.iter().filter(|(own, _)| *own == "connection").map(|(_, value)| value);
        let mut options = values.flat_map(|value| value.split(|byte| *byte == b','));
        options.any(|option| option.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
    }
}

/// Fields that belong to one connection (RFC 9110, section 7.6.1, and the older ones it grew from).
const HOP_BY_HOP: [&str; 8] = [
    "te",
    "trailer",
    "upgrade",
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "proxy-authenticate",
];

/// Whether a field of this name, which is given in lower case, always belongs to one connection.
#[must_use]
pub fn is_hop_by_hop(name: &str) -> bool {
    // By length first: most names are none of these.
    matches!(name.len(), 2 | 7 | 10 | 16..=18) && HOP_BY_HOP.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_that_belongs_to_a_connection_is_missed() {
        assert!(HOP_BY_HOP.iter().all(|name| is_hop_by_hop(name)));
        assert!(!is_hop_by_hop("content-length"));
    }

    #[test]
    fn fields_that_connection_names_belong_to_it() {
        let mut fields = Fields::default();
        for (name, value) in
            [("Connection", &b"close, X-One"[..]), ("X-One", b"1"), ("connection", b" x-two"), ("X-Two", b"")]
        {
            fields.push(name, value);
        }
        assert_eq!(
            (fields.get("x-one"), fields.get("x-two"), fields.get("x-three")),
            (Some(&b"1"[..]), Some(&b""[..]), None)
        );
        for (name, belongs) in [("x-one", true), ("x-two", true), ("x-three", false), ("upgrade", true)] {
            assert_eq!(fields.is_of_connection(name, true), belongs, "{name}");
        }
    }
}
