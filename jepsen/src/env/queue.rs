//! Packets that the kernel hands over and waits for a word on: a client of `nfnetlink_queue`.
//!
//! A rule of a packet filter (`-j NFQUEUE --queue-num N`) sends packets here; each is held in the kernel until a
//! verdict on its number comes. Only the number and the length of a packet are read.
//!
//! # Sources
//! Linux, `include/uapi/linux/netfilter/nfnetlink_queue.h`, `nfnetlink.h`, `netlink.h`.

use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, Protocol, Socket, Type};

const AF_NETLINK: i32 = 16;
const NETLINK_NETFILTER: i32 = 12;

const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;

const SUBSYSTEM: u16 = 3 << 8;
const MSG_PACKET: u16 = SUBSYSTEM;
const MSG_VERDICT: u16 = SUBSYSTEM | 1;
const MSG_CONFIG: u16 = SUBSYSTEM | 2;

const CONFIG_COMMAND: u16 = 1;
const CONFIG_PARAMS: u16 = 2;
const CONFIG_LENGTH_MAX: u16 = 3;
const COMMAND_BIND: u8 = 1;
const COPY_PACKET: u8 = 2;

const PACKET_HEADER: u16 = 1;
const VERDICT_HEADER: u16 = 2;
const PACKET_PAYLOAD: u16 = 10;
const PACKET_LENGTH: u16 = 13;

/// Of an attribute's type: the rest says how it is encoded.
const TYPE_MASK: u16 = 0x3FFF;
/// Header of a message: length, type, flags, number, sender.
const HEADER: usize = 16;
/// Header of the subsystem: family, version, queue.
const SUB_HEADER: usize = 4;
/// What is read of each packet beside its length.
const COPIED: u32 = 1;
/// The most that one read brings.
const READ: usize = 1 << 16;
/// Messages that wait for us: what does not fit is lost, as on a wire.
const BUFFER: usize = 8 << 20;

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// It is lost.
    Drop,
    /// It goes on.
    Accept,
}

/// A packet that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// In which queue.
    pub queue: u16,
    /// Its number there.
    pub id: u32,
    /// How long it is, from its IP header on.
    pub bytes: u32,
}

/// Queues of the network namespace in which they were opened.
#[derive(Debug)]
pub struct Queues {
    socket: Socket,
}

impl Queues {
    /// Binds queues, each of which holds at most so many packets; what comes then is lost.
    ///
    /// # Errors
    /// If the kernel has no such queues, or somebody else has one of these.
    pub fn open(numbers: &[u16], length_max: u32) -> io::Result<Self> {
        let kind = Type::RAW.cloexec();
        let protocol = Some(Protocol::from(NETLINK_NETFILTER));
        let socket = Socket::new(Domain::from(AF_NETLINK), kind, protocol)?;
        socket.set_recv_buffer_size(BUFFER)?;
        let queues = Self { socket };
        for number in numbers {
            queues.configure(*number, CONFIG_COMMAND, &[COMMAND_BIND, 0, 0, 0])?;
            let params = [COPIED.to_be_bytes().as_slice(), &[COPY_PACKET]].concat();
            queues.configure(*number, CONFIG_PARAMS, &params)?;
            queues.configure(*number, CONFIG_LENGTH_MAX, &length_max.to_be_bytes())?;
        }
        queues.socket.set_nonblocking(true)?;
        Ok(queues)
    }

    fn configure(&self, queue: u16, attribute: u16, value: &[u8]) -> io::Result<()> {
        self.socket.send(&message(MSG_CONFIG, NLM_F_ACK, queue, attribute, value))?;
        let mut buffer = vec![0; READ];
        loop {
            // Of a queue that is bound already, packets may come first; nothing leads to it yet.
            let read = (&self.socket).read(&mut buffer)?;
            let answer = messages(buffer.get(..read).unwrap_or_default())
                .find_map(|(kind, body)| (kind == NLMSG_ERROR).then_some(body));
            if let Some(code) = answer.and_then(|body| number_at(body, 0, i32::from_ne_bytes)) {
                return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
            }
        }
    }

    /// Returns the packets that came meanwhile; does not wait.
    ///
    /// # Errors
    /// If the kernel refuses. That it lost some for want of memory is no error.
    pub fn packets(&self) -> io::Result<Vec<Packet>> {
        let mut found = Vec::new();
        let mut buffer = vec![0; READ];
        loop {
            match (&self.socket).read(&mut buffer) {
                Ok(read) => found.extend(packets(buffer.get(..read).unwrap_or_default())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(found),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error)
                    if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Says what becomes of a packet.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn say(&self, queue: u16, id: u32, word: Word) -> io::Result<()> {
        let word: u32 = match word {
            Word::Drop => 0,
            Word::Accept => 1,
        };
        let value = [word.to_be_bytes(), id.to_be_bytes()].concat();
        self.socket.send(&message(MSG_VERDICT, 0, queue, VERDICT_HEADER, &value)).map(drop)
    }
}

impl AsFd for Queues {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Returns a message with one attribute.
fn message(kind: u16, flags: u16, queue: u16, attribute: u16, value: &[u8]) -> Vec<u8> {
    let length = |bytes: usize| u16::try_from(bytes).expect("short values");
    let attribute_length = 4 + value.len();
    let padded = attribute_length.next_multiple_of(4);
    let total = u32::from(length(HEADER + SUB_HEADER + padded));
    let mut bytes = Vec::new();
    bytes.extend(total.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([0, 0]);
    bytes.extend(queue.to_be_bytes());
    bytes.extend(length(attribute_length).to_ne_bytes());
    bytes.extend(attribute.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(HEADER + SUB_HEADER + padded, 0);
    bytes
}

/// Returns each message of a datagram: its type, and what follows its header.
fn messages(datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = usize::try_from(number_at(rest, 0, u32::from_ne_bytes)?).ok()?;
        let kind = number_at(rest, 4, u16::from_ne_bytes)?;
        let body = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// Returns each attribute: its type and its value.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(number_at(rest, 0, u16::from_ne_bytes)?);
        let kind = number_at(rest, 2, u16::from_ne_bytes)? & TYPE_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn packets(datagram: &[u8]) -> Vec<Packet> {
    let of = |(kind, body): (u16, &[u8])| {
        if kind != MSG_PACKET {
            return None;
        }
        let queue = number_at(body, 2, u16::from_be_bytes)?;
        let (mut id, mut bytes) = (None, 0);
        for (kind, value) in attributes(body.get(SUB_HEADER..)?) {
            match kind {
                PACKET_HEADER => id = number_at(value, 0, u32::from_be_bytes),
                // Of a packet that is no longer than what is copied nothing else is said.
                PACKET_PAYLOAD => bytes = bytes.max(u32::try_from(value.len()).unwrap_or(u32::MAX)),
                PACKET_LENGTH => bytes = number_at(value, 0, u32::from_be_bytes)?,
                _ => {}
            }
        }
        Some(Packet { queue, id: id?, bytes })
    };
    messages(datagram).filter_map(of).collect()
}

/// Reads a number at a place.
fn number_at<const N: usize, T>(bytes: &[u8], at: usize, read: fn([u8; N]) -> T) -> Option<T> {
    Some(read(bytes.get(at..at + N)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(queue: u16, id: u32, length: u32) -> Vec<u8> {
        let mut header = id.to_be_bytes().to_vec();
        header.extend([8, 0, 1]);
        let mut bytes = message(MSG_PACKET, 0, queue, PACKET_HEADER, &header);
        let mut add = |kind: u16, value: &[u8]| {
            let length = u16::try_from(4 + value.len()).unwrap();
            bytes.extend(length.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        };
        add(PACKET_PAYLOAD, &[0x45]);
        add(PACKET_LENGTH, &length.to_be_bytes());
        let total = u32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&total.to_ne_bytes());
        bytes
    }

    #[test]
    fn packets_of_a_datagram_are_read_one_by_one() {
        let datagram = [packet(1, 7, 1500), packet(2, 8, 60)].concat();
        let expected =
            [Packet { queue: 1, id: 7, bytes: 1500 }, Packet { queue: 2, id: 8, bytes: 60 }];
        assert_eq!(packets(&datagram), expected);
    }

    #[test]
    fn what_is_cut_short_or_not_a_packet_is_none() {
        let whole = packet(1, 7, 1500);
        for end in 0..whole.len() {
            assert_eq!(packets(&whole[..end]), [], "{end}");
        }
        assert_eq!(packets(&message(MSG_CONFIG, 0, 1, PACKET_HEADER, &[0; 8])), []);
    }

    #[test]
    fn a_message_is_what_the_kernel_reads() {
        let bytes = message(MSG_VERDICT, 0, 0x0102, VERDICT_HEADER, &[0, 0, 0, 1, 0, 0, 0, 9]);
        assert_eq!(bytes.len(), 32);
        assert_eq!(bytes[..4], 32_u32.to_ne_bytes());
        assert_eq!(bytes[4..6], 0x0301_u16.to_ne_bytes());
        assert_eq!(bytes[18..20], [1, 2]);
        assert_eq!(bytes[20..22], 12_u16.to_ne_bytes());
    }
}
