//! Nonce, checksum and cipher of a datagram, in the same format as kcptun's.
//!
//! ```text
//! 16 random bytes | CRC-32 of all that follows, u32 LE | segments
//! ```
//! With `--crypt none`, a datagram is sent in this form. With `aes`, the whole datagram is
//! encrypted by AES in CFB mode. The initial vector is kcp-go's constant. The nonce fills the first
//! block and makes equal datagrams differ. The key is made from the shared secret by PBKDF2. There
//! is **no authentication**. If you need it, use TLS on top.
//!
//! Invariant: the bytes of a datagram are used only after its checksum was found right.

use aes::cipher::{AsyncStreamCipher, InnerIvInit, KeyInit};
use aes::{Aes128Enc, Aes192Enc, Aes256Enc};
use cfb_mode::{Decryptor, Encryptor};
use rand::RngCore;

/// The nonce and the checksum, in bytes.
pub const HEAD: usize = NONCE + 4;
const NONCE: usize = 16;

/// The initial vector in kcp-go's `crypt.go`.
const VECTOR: [u8; 16] = [167, 115, 79, 156, 18, 172, 27, 1, 164, 21, 242, 193, 252, 120, 230, 107];

/// Salt and rounds of PBKDF2 with HMAC-SHA1, as kcptun uses them to make a key from the secret.
const SALT: &[u8] = b"kcp-go";
const ROUNDS: u32 = 4096;

/// The reason why a datagram is discarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    Short,
    Checksum,
}

/// The supported ciphers, with kcptun's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cipher {
    /// No cipher. Nonce and checksum are still there.
    None,
    /// AES with 256 bits.
    Aes,
    Aes192,
    Aes128,
}

/// Encrypts datagrams with [`close`](Self::close), and decrypts them with [`open`](Self::open).
pub struct Crypt(Keyed);

enum Keyed {
    None,
    Aes(Box<Aes256Enc>),
    Aes192(Box<Aes192Enc>),
    Aes128(Box<Aes128Enc>),
}

impl std::fmt::Debug for Crypt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Crypt(..)") // no key in a log
    }
}

impl Crypt {
    /// Makes the cipher with the key that kcptun makes from `secret`. This takes some milliseconds.
    /// PBKDF2 is slow on purpose, because that makes guessing the secret expensive.
    pub fn new(cipher: Cipher, secret: &str) -> Self {
        if cipher == Cipher::None {
            return Self(Keyed::None);
        }
        let mut key = [0; 32];
        pbkdf2::pbkdf2_hmac::<sha1::Sha1>(secret.as_bytes(), SALT, ROUNDS, &mut key);
        let [k24 @ .., _, _, _, _, _, _, _, _] = key;
        let [k16 @ .., _, _, _, _, _, _, _, _] = k24;
        Self(match cipher {
            Cipher::None => Keyed::None,
            Cipher::Aes => Keyed::Aes(Box::new(Aes256Enc::new(&key.into()))),
            Cipher::Aes192 => Keyed::Aes192(Box::new(Aes192Enc::new(&k24.into()))),
            Cipher::Aes128 => Keyed::Aes128(Box::new(Aes128Enc::new(&k16.into()))),
        })
    }

    /// Fills in the head of a datagram and encrypts the whole datagram. The head is the [`HEAD`]
    /// bytes before its segments.
    pub fn close(&self, datagram: &mut [u8], random: &mut impl RngCore) {
        let Some((head, segments)) = datagram.split_first_chunk_mut::<HEAD>() else { return };
        let (nonce, checksum) = head.split_at_mut(NONCE);
        random.fill_bytes(nonce);
        checksum.copy_from_slice(&crc32fast::hash(segments).to_le_bytes());
        match &self.0 {
            Keyed::None => {}
            Keyed::Aes(key) => {
                Encryptor::inner_iv_init((**key).clone(), &VECTOR.into()).encrypt(datagram)
            }
            Keyed::Aes192(key) => {
                Encryptor::inner_iv_init((**key).clone(), &VECTOR.into()).encrypt(datagram)
            }
            Keyed::Aes128(key) => {
                Encryptor::inner_iv_init((**key).clone(), &VECTOR.into()).encrypt(datagram)
            }
        }
    }

    /// Decrypts a datagram in place, and returns its segments.
    ///
    /// # Errors
    /// The datagram is too short, or its checksum is wrong.
    pub fn open<'a>(&self, datagram: &'a mut [u8]) -> Result<&'a [u8], Refused> {
        if datagram.len() <= HEAD {
            return Err(Refused::Short);
        }
        match &self.0 {
            Keyed::None => {}
            Keyed::Aes(key) => {
                Decryptor::inner_iv_init((**key).clone(), &VECTOR.into()).decrypt(datagram)
            }
            Keyed::Aes192(key) => {
                Decryptor::inner_iv_init((**key).clone(), &VECTOR.into()).decrypt(datagram)
            }
            Keyed::Aes128(key) => {
                Decryptor::inner_iv_init((**key).clone(), &VECTOR.into()).decrypt(datagram)
            }
        }
        let (head, segments) = datagram.split_first_chunk::<HEAD>().ok_or(Refused::Short)?;
        let (_, checksum) = head.split_at(NONCE);
        if crc32fast::hash(segments).to_le_bytes() != checksum {
            return Err(Refused::Checksum);
        }
        Ok(segments)
    }
}
