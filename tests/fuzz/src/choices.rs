//! The meaning of an input to a target: a row of choices. Also inputs from a seed, and the text
//! form of a corpus.

use std::sync::LazyLock;

/// The bytes from which payloads are cut.
static PAYLOADS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    (0..2 * 65536u32).map(|i| (i as u8).wrapping_mul(31) ^ (i >> 8) as u8).collect()
});

/// Returns `length` bytes (at most 65536). Another seed or place gives other bytes.
pub fn payload(seed: u8, place: usize, length: usize) -> &'static [u8] {
    let from = (place + usize::from(seed) * 251) % 65536;
    &PAYLOADS[from..from + length]
}

/// Reads choices from an input. Past its end all choices are 0. A target stops when
/// [`is_empty`](Self::is_empty) returns true.
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&byte, rest)) => {
                self.0 = rest;
                byte
            }
            None => 0,
        }
    }

    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    pub fn word(&mut self) -> u32 {
        u32::from(self.short()) | u32::from(self.short()) << 16
    }

    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// Returns a number below `n`, which is at most 256.
    pub fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n.max(1)
    }

    /// Returns a length. It is mostly small, sometimes near one of the limits in the code, and
    /// sometimes any up to 65535.
    pub fn length(&mut self) -> usize {
        const LIMITS: [usize; 12] =
            [0, 64, 1024, 2048, 4096, 8192, 16384, 32768, 65535, 5000, 16376, 12000];
        match self.byte() {
            small @ 0..160 => small.into(),
            limit @ 160..232 => {
                let limit = usize::from(limit - 160);
                (LIMITS[limit % 12] + limit / 12).saturating_sub(3).min(65535)
            }
            _ => self.short().into(),
        }
    }

    /// Returns the next `n` bytes, or the rest if that is shorter.
    pub fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (now, later) = self.0.split_at(n.min(self.0.len()));
        self.0 = later;
        now
    }
}

/// Returns the `n`th input from a fixed seed, up to some hundred bytes long. The replay adds these
/// to the corpus.
pub fn generate(n: u64) -> Vec<u8> {
    let mut state = n.wrapping_mul(0xA076_1D64_78BD_642F) ^ 0x1656_67B1_9E37_79F9;
    let mut next = move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15); // This is splitmix64.
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    let length = 8 + next() % [40, 200, 700][(n % 3) as usize];
    let mut input = Vec::new();
    while (input.len() as u64) < length {
        // Repeated bytes, as runs of one choice, reach further than evenly random bytes.
        let byte = next();
        let times = 1 + (next() % 16).saturating_sub(12);
        input.extend((0..times).map(|_| byte as u8));
    }
    input
}

/// Returns the inputs of a corpus file. Each line is one input in hexadecimal digits.
pub fn parse_corpus(text: &str) -> Vec<Vec<u8>> {
    let digit =
        |c: u8| (c as char).to_digit(16).expect("a corpus file has hexadecimal digits alone") as u8;
    let line = |line: &str| {
        line.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
    };
    text.lines().map(line).collect()
}
