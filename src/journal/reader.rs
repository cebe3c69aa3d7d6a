//! Reads a stream of blocks, one at a time, and verifies the checks of each. Interprets no entry but the first of a
//! segment.

use std::io::{self, Read};

use super::error::Fault;
use super::format::block::{BLOCK_HEADER, FAMILY, MAGIC, MAX_BLOCK, check_of};
use super::format::segment::Segment;

/// Next item of the stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A block was read into the buffer. `is_first`: it is the first of its segment.
    Block {
        is_first: bool,
    },
    End,
    /// The stream ends inside a block, after this many bytes of it.
    Torn(u64),
}

/// Reader for the blocks of consecutive segments.
#[derive(Debug)]
pub(super) struct Blocks<R> {
    input: R,
    /// Bytes read so far.
    offset: u64,
    /// Check of the last block of this segment.
    chain: u32,
    /// Check of the last block of the previous segment.
    before: u32,
}

impl<R: Read> Blocks<R> {
    pub(super) fn new(input: R) -> Blocks<R> {
        Blocks { input, offset: 0, chain: 0, before: 0 }
    }

    /// Returns the check of the last block of the previous segment.
    pub(super) fn before(&self) -> u32 {
        self.before
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads the next block into `block`.
    pub(super) fn read(&mut self, block: &mut Vec<u8>) -> Result<Next, Fault> {
        let is_first = self.offset == 0;
        match self.header()? {
            Header::End if is_first => Err(Fault::Empty),
            Header::End => Ok(Next::End),
            Header::Torn(bytes) => Ok(Next::Torn(bytes)),
            Header::Block(_) if is_first => Err(Fault::NotAJournal),
            Header::Block(header) => self.body(&header, block, false),
            Header::Magic => {
                (self.before, self.chain) = (self.chain, 0);
                match self.header()? {
                    Header::Block(header) => self.body(&header, block, true),
                    Header::End => Ok(Next::Torn(MAGIC.len() as u64)),
                    Header::Torn(bytes) => Ok(Next::Torn(MAGIC.len() as u64 + bytes)),
                    Header::Magic => Err(self.broken("a segment begins twice")),
                }
            }
        }
    }

    fn header(&mut self) -> Result<Header, Fault> {
        let is_first = self.offset == 0;
        let mut header = [0; BLOCK_HEADER];
        let count = self.fill(&mut header)?;
        let seen = &header[..count];
        if seen.starts_with(&FAMILY[..count.min(FAMILY.len())]) && count > 0 {
            return self.magic(seen);
        }
        match count {
            0 => Ok(Header::End),
            _ if is_first => Err(Fault::NotAJournal),
            BLOCK_HEADER => Ok(Header::Block(header)),
            _ => Ok(Header::Torn(count as u64)),
        }
    }

    /// Reads the rest of the first line of a segment.
    fn magic(&mut self, seen: &[u8]) -> Result<Header, Fault> {
        let mut line = seen.to_vec();
        let mut rest = [0; MAGIC.len() - BLOCK_HEADER];
        if seen.len() == BLOCK_HEADER {
            let count = self.fill(&mut rest)?;
            line.extend_from_slice(&rest[..count]);
        }
        match &*line {
            MAGIC => Ok(Header::Magic),
            line if MAGIC.starts_with(line) => Ok(Header::Torn(line.len() as u64)),
            line => match line.strip_prefix(FAMILY) {
                Some(version) => Err(Fault::OtherVersion(String::from_utf8_lossy(version).trim().to_owned())),
                None if self.offset == line.len() as u64 => Err(Fault::NotAJournal),
                None => Err(self.broken("a segment does not begin with its first line")),
            },
        }
    }

    fn body(&mut self, header: &[u8; BLOCK_HEADER], block: &mut Vec<u8>, is_first: bool) -> Result<Next, Fault> {
        let (numbers, _) = header.as_chunks::<4>();
        let length = u32::from_le_bytes(numbers[0]) as usize;
        if check_of(self.chain, &[&numbers[0]]) != u32::from_le_bytes(numbers[1]) || !(1..=MAX_BLOCK).contains(&length)
        {
            return Err(self.broken("the length of a block is wrong"));
        }
        block.clear();
        // Memory grows with the bytes that are read: a large length in a damaged journal allocates nothing in advance.
        let read = self.input.by_ref().take(length as u64).read_to_end(block);
        let count = read.map_err(Fault::Io)?;
        if count < length {
            return Ok(Next::Torn((BLOCK_HEADER + count) as u64));
        }
        self.chain = check_of(self.chain, &[block]);
        if self.chain != u32::from_le_bytes(numbers[2]) {
            return Err(self.broken("a block was changed, or a block before it is missing"));
        }
        self.offset += length as u64;
        Ok(Next::Block { is_first })
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<usize, Fault> {
        let mut count = 0;
        while count < bytes.len() {
            match self.input.read(&mut bytes[count..]) {
                Ok(0) => break,
                Ok(n) => count += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::Io(error)),
            }
        }
        self.offset += count as u64;
        Ok(count)
    }

    fn broken(&self, what: &'static str) -> Fault {
        Fault::Broken { offset: self.offset, what }
    }
}

enum Header {
    Block([u8; BLOCK_HEADER]),
    Magic,
    End,
    Torn(u64),
}

/// Returns whether a segment is the first of its session. An unreadable segment counts as a first one: it continues no
/// other.
pub(crate) fn begins_session(segment: &mut impl Read) -> bool {
    let mut block = Vec::new();
    let first = Blocks::new(segment).read(&mut block).is_ok();
    !first || Segment::read(&block).map_or(true, |segment| segment.number == 1)
}
