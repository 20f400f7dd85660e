// Package frame follows and builds WebSocket frames (RFC 6455 §5) without
// parsing messages: bytes in, values out. [Scanner] follows the frame headers
// of one direction of a connection, whose bytes may come in chunks of any
// size; the Append functions build what a proxy puts between frames.
package frame

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"unicode/utf8"
)

// Opcode says how the payload of a frame is to be understood (RFC 6455 §5.2).
type Opcode byte

// The opcodes of RFC 6455 §11.8; all others are reserved.
const (
	Continuation Opcode = 0x0
	Text         Opcode = 0x1
	Binary       Opcode = 0x2
	Close        Opcode = 0x8
	Ping         Opcode = 0x9
	Pong         Opcode = 0xA
)

// IsControl reports whether o is the opcode of a control frame, reserved ones
// included (RFC 6455 §5.5).
func (o Opcode) IsControl() bool { return o&0x8 != 0 }

// Status codes of a Close frame (RFC 6455 §7.4.1 and the IANA registry it
// set up). StatusNoStatus and StatusAbnormal describe how a connection ended
// and are never sent.
const (
	StatusNormal          = 1000
	StatusGoingAway       = 1001
	StatusProtocolError   = 1002
	StatusNoStatus        = 1005
	StatusAbnormal        = 1006
	StatusPolicyViolation = 1008
	StatusMessageTooBig   = 1009
	StatusInternalError   = 1011
	StatusServiceRestart  = 1012
	StatusTryAgainLater   = 1013
)

const (
	finBit  = 0x80
	maskBit = 0x80

	// The 7-bit length of RFC 6455 §5.2 stands for itself up to 125; these
	// two values announce a length of two or of eight bytes instead.
	length16 = 126
	length64 = 127

	maxControlPayload = 125 // bytes, RFC 6455 §5.5
	closeCodeSize     = 2   // bytes, RFC 6455 §5.5.1
	maxCloseReason    = maxControlPayload - closeCodeSize
)

// Header is the header of one frame (RFC 6455 §5.2).
type Header struct {
	// Fin marks the last frame of a message.
	Fin bool
	// RSV holds the reserved bits, which belong to extensions: RSV1 is 4,
	// RSV2 is 2 and RSV3 is 1.
	RSV byte
	// Opcode is the kind of frame.
	Opcode Opcode
	// Masked says that the payload is masked with Mask (RFC 6455 §5.3).
	Masked bool
	// Mask is the masking key, zero unless Masked.
	Mask [4]byte
	// Length is the size of the payload in bytes, below 1<<63.
	Length uint64
}

// AppendHeader appends the wire form of h to b, with the length in its
// shortest form as RFC 6455 §5.2 demands. It does not judge h.
func AppendHeader(b []byte, h Header) []byte {
	first := h.RSV&0x7<<4 | byte(h.Opcode)&0xF
	if h.Fin {
		first |= finBit
	}
	var mask byte
	if h.Masked {
		mask = maskBit
	}
	switch {
	case h.Length < length16:
		b = append(b, first, mask|byte(h.Length))
	case h.Length < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, first, mask|length16), uint16(h.Length))
	default:
		b = binary.BigEndian.AppendUint64(append(b, first, mask|length64), h.Length)
	}
	if h.Masked {
		b = append(b, h.Mask[:]...)
	}
	return b
}

// AppendClose appends a Close frame to b (RFC 6455 §5.5.1), masked if mask is
// not nil. A reason longer than the 123 bytes that fit is cut before the first
// character that does not fit whole. With StatusNoStatus the payload is empty,
// so what [Scanner.CloseCode] returned can be sent on; every other code is
// written as given, see [ValidCloseCode].
func AppendClose(b []byte, code uint16, reason string, mask *[4]byte) []byte {
	if code == StatusNoStatus {
		return AppendControl(b, Close, nil, mask)
	}
	reason = truncate(reason, maxCloseReason)
	b = appendControlHeader(b, Close, closeCodeSize+len(reason), mask)
	start := len(b)
	b = binary.BigEndian.AppendUint16(b, code)
	b = append(b, reason...)
	maskPayload(b[start:], mask)
	return b
}

// AppendControl appends a control frame to b, masked if mask is not nil. Only
// the first 125 bytes of payload are used: what is put on the wire is well
// formed whatever the caller passes (RFC 6455 §5.5).
func AppendControl(b []byte, op Opcode, payload []byte, mask *[4]byte) []byte {
	payload = payload[:min(len(payload), maxControlPayload)]
	b = appendControlHeader(b, op, len(payload), mask)
	start := len(b)
	b = append(b, payload...)
	maskPayload(b[start:], mask)
	return b
}

func appendControlHeader(b []byte, op Opcode, length int, mask *[4]byte) []byte {
	h := Header{Fin: true, Opcode: op, Length: uint64(length)}
	if mask != nil {
		h.Masked, h.Mask = true, *mask
	}
	return AppendHeader(b, h)
}

// NewMask returns a key for a frame that a client sends, which has to be
// unpredictable (RFC 6455 §5.3).
func NewMask() *[4]byte {
	var key [4]byte
	_, _ = rand.Read(key[:]) // never fails
	return &key
}

func maskPayload(p []byte, mask *[4]byte) {
	if mask != nil {
		ApplyMask(p, *mask, 0)
	}
}

// truncate returns the longest prefix of s that has at most limit bytes and
// does not end inside a character: a reason must be UTF-8 (RFC 6455 §5.5.1).
func truncate(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}

// ApplyMask masks or unmasks p in place (RFC 6455 §5.3). off is the place of
// p[0] in the payload, modulo 4 or not; the result, 0 to 3, is the off of the
// byte that follows p.
func ApplyMask(p []byte, key [4]byte, off int) int {
	next := (off + len(p)) & 3
	// Turned so that it starts at off, the key repeats every four bytes of p.
	turned := bits.RotateLeft32(binary.LittleEndian.Uint32(key[:]), -8*(off&3))
	binary.LittleEndian.PutUint32(key[:], turned)
	word := uint64(turned)<<32 | uint64(turned)
	for len(p) >= 8 {
		binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^word)
		p = p[8:]
	}
	for i := range p {
		p[i] ^= key[i&3]
	}
	return next
}

// ValidCloseCode reports whether code may be sent in a Close frame: the codes
// defined for that, and those left to libraries and applications (RFC 6455
// §7.4.1 and §7.4.2, and the IANA registry for 1012 to 1014).
func ValidCloseCode(code uint16) bool {
	switch {
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1014:
		return true
	default:
		return code >= 3000 && code <= 4999
	}
}

// CloseCodeProblem returns what is wrong with a status that somebody wants in a
// Close frame, if anything.
func CloseCodeProblem(code int) string {
	if code < 0 || code > math.MaxUint16 || !ValidCloseCode(uint16(code)) {
		return fmt.Sprintf("%d is not allowed in a Close frame; use 1012, or one from 3000 to 4999", code)
	}
	return ""
}

// CloseReasonProblem returns what is wrong with a text that somebody wants in a
// Close frame, if anything (RFC 6455 §5.5 and §5.5.1).
func CloseReasonProblem(text string) string {
	switch {
	case len(text) > maxCloseReason:
		return fmt.Sprintf("has %d bytes; at most %d fit into a Close frame", len(text), maxCloseReason)
	case !utf8.ValidString(text):
		return "is not UTF-8"
	}
	return ""
}
