package frame

import "encoding/binary"

// legalStarts holds, for each progress, the first header bytes that are legal
// there, as bits numbered fin<<4 | opcode. This is all of RFC 6455 that the
// first byte can break: reserved opcodes (§5.2), fragments out of order (§5.4),
// fragmented control frames (§5.5) and bytes after Close (§5.5.1). The reserved
// bits are not looked at, they belong to extensions.
var legalStarts = [...]uint32{
	betweenMessages: 1<<Text | 1<<Binary | 1<<(16+Text) | 1<<(16+Binary) | legalControls,
	insideMessage:   1<<Continuation | 1<<(16+Continuation) | legalControls,
	afterClose:      0,
}

const legalControls = 1<<(16+Close) | 1<<(16+Ping) | 1<<(16+Pong)

// wholeHeader takes the header at the start of p and returns its size, or 0 if
// it is not all there or not legal, which headerByte then tells apart. This is
// the hot path: one look at the bytes, no loop.
func (s *Scanner) wholeHeader(p []byte) int {
	if len(p) < 2 || s.lenient || !s.legalFirst(p[0]) || !s.legalSecond(p[0], p[1]) {
		return 0
	}
	size := headerSize(p[1])
	if len(p) < size {
		return 0
	}
	length := uint64(p[1] &^ maskBit)
	switch length {
	case length16:
		length = uint64(binary.BigEndian.Uint16(p[2:]))
	case length64:
		length = binary.BigEndian.Uint64(p[2:])
	}
	if !legalLength(p[1], length) {
		return 0
	}
	if s.wantMask != 0 {
		s.mask = [4]byte(p[size-4 : size])
	}
	s.b0, s.b1, s.length = p[0], p[1], length
	s.beginPayload()
	return size
}

// headerByte takes one byte of a header that is split, or not legal.
func (s *Scanner) headerByte(b byte) Event {
	at := s.seen
	s.seen++
	legal := true
	switch lengthEnd := 2 + lengthSize(s.b1); {
	case at == 0:
		s.b0 = b
		legal = s.legalFirst(b)
	case at == 1:
		s.b1, s.length = b, 0
		if lengthSize(b) == 0 {
			s.length = uint64(b &^ maskBit)
		}
		legal = s.legalSecond(s.b0, b)
		if b&maskBit == 0 {
			s.mask = [4]byte{}
		}
	case at < lengthEnd:
		s.length = s.length<<8 | uint64(b)
		legal = s.seen < lengthEnd || legalLength(s.b1, s.length)
	default:
		s.mask[at-lengthEnd] = b
	}
	switch {
	case !legal && (!s.lenient || s.length >= 1<<63):
		s.stage = opaque
		return Violation
	case at > 0 && int(s.seen) == headerSize(s.b1):
		s.beginPayload()
		return HeaderDone
	}
	return None
}

func (s *Scanner) legalFirst(b0 byte) bool {
	start := b0&finBit>>3 | b0&0xF
	return legalStarts[s.progress]>>start&1 != 0
}

func (s *Scanner) legalSecond(b0, b1 byte) bool {
	if b1&maskBit != s.wantMask {
		return false
	}
	op, length := Opcode(b0&0xF), b1&^maskBit
	return !op.IsControl() || length <= maxControlPayload && (op != Close || length != 1)
}

// legalLength reports whether a length is in its shortest form, and a number
// below 1<<63 (RFC 6455 §5.2).
func legalLength(b1 byte, length uint64) bool {
	switch b1 &^ maskBit {
	case length16:
		return length >= length16
	case length64:
		return length >= 1<<16 && length < 1<<63
	default:
		return true
	}
}

// headerSize returns the size of a header with the second byte b1.
func headerSize(b1 byte) int {
	size := 2 + int(lengthSize(b1))
	if b1&maskBit != 0 {
		size += 4
	}
	return size
}

// lengthSize returns the size of the extended length that b1 announces.
func lengthSize(b1 byte) uint8 {
	switch b1 &^ maskBit {
	case length16:
		return 2
	case length64:
		return 8
	default:
		return 0
	}
}
