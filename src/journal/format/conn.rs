//! Connection ids in entries.

use std::collections::HashMap;

use super::read::{BadEntry, EntryReader, Read};
use super::write::Put;
use crate::base::id::ConnId;

/// Writes connection ids. The generation is written only when it differs from the last one written for that index.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnWriter {
    generations: Vec<u64>,
}

impl ConnWriter {
    pub(crate) fn put(&mut self, to: &mut Vec<u8>, conn: ConnId) {
        let index = conn.index();
        if index >= self.generations.len() {
            self.generations.resize(index + 1, 0);
        }
        let is_new = std::mem::replace(&mut self.generations[index], conn.generation()) != conn.generation();
        to.put_number((index as u64) << 1 | u64::from(is_new));
        if is_new {
            to.put_number(conn.generation());
        }
    }
}

/// Reads connection ids. Uses a map instead of a vector, so that a large index in a damaged journal allocates little
/// memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnReader {
    generations: HashMap<u32, u64>,
}

impl ConnReader {
    pub(crate) fn read(&mut self, from: &mut EntryReader<'_>) -> Read<ConnId> {
        let number = from.number()?;
        let index = u32::try_from(number >> 1).map_err(|_| BadEntry)?;
        if number & 1 == 1 {
            self.generations.insert(index, from.number()?);
        }
        let generation = *self.generations.get(&index).ok_or(BadEntry)?;
        ConnId::new(index as usize, generation).ok_or(BadEntry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_ids_survive_a_round_trip_in_few_bytes() {
        let conns = [(0, 1), (0, 1), (3, 2), (0, 3), (3, 2), (0, 1)]
            .map(|(index, generation)| ConnId::new(index, generation).unwrap());
        let (mut written, mut bytes) = (ConnWriter::default(), Vec::new());
        conns.iter().for_each(|&conn| written.put(&mut bytes, conn));
        let (mut read, mut from) = (ConnReader::default(), EntryReader::new(&bytes));
        conns.iter().for_each(|&conn| assert_eq!(read.read(&mut from), Ok(conn)));
        assert!(from.is_empty() && bytes.len() == 6 + 4);
    }
}
