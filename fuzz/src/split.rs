//! Inputs of two parts.

/// Takes a part of `input` whose length its first byte says.
pub fn split(input: &[u8]) -> (&[u8], &[u8]) {
    let Some((&len, rest)) = input.split_first() else { return (&[], &[]) };
    rest.split_at_checked(usize::from(len)).unwrap_or((rest, &[]))
}
