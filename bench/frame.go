package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// Opcodes of RFC 6455 section 5.2.
const (
	opText   = 0x1
	opBinary = 0x2
	opClose  = 0x8
	opPing   = 0x9
	opPong   = 0xA
)

const (
	finBit  = 0x80
	maskBit = 0x80
	// maxFrame bounds what a broken proxy can make us allocate.
	maxFrame = 16 << 20
)

var errFrameTooLong = errors.New("frame is longer than anything this program sends")

// clientMask is the masking key of every frame a client sends. It is fixed so
// that frames can be built once; a proxy can't tell.
var clientMask = [4]byte{0x37, 0xfa, 0x21, 0x3d}

// frameHeader is one decoded frame header.
type frameHeader struct {
	fin    bool
	opcode byte
	masked bool
	mask   [4]byte
	length int64
}

// appendFrame appends one unfragmented frame to dst. A nil mask leaves the
// payload unmasked, as a server must.
func appendFrame(dst []byte, opcode byte, mask *[4]byte, payload []byte) []byte {
	dst = append(dst, finBit|opcode)
	var bit byte
	if mask != nil {
		bit = maskBit
	}
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, bit|byte(n))
	case n <= math.MaxUint16:
		dst = binary.BigEndian.AppendUint16(append(dst, bit|126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, bit|127), uint64(n))
	}
	if mask == nil {
		return append(dst, payload...)
	}
	dst = append(dst, mask[:]...)
	start := len(dst)
	dst = append(dst, payload...)
	maskBytes(*mask, dst[start:])
	return dst
}

// readHeader reads one frame header.
func readHeader(r *bufio.Reader) (frameHeader, error) {
	b, err := r.Peek(2)
	if err != nil {
		return frameHeader{}, err
	}
	h := frameHeader{fin: b[0]&finBit != 0, opcode: b[0] & 0x0f, masked: b[1]&maskBit != 0}
	short := b[1] &^ maskBit

	size := 2
	switch short {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	lengthEnd := size
	if h.masked {
		size += len(h.mask)
	}
	if b, err = r.Peek(size); err != nil {
		return frameHeader{}, err
	}
	h.length = payloadLength(short, b[2:lengthEnd])
	copy(h.mask[:], b[lengthEnd:])
	_, err = r.Discard(size)
	return h, err
}

// payloadLength decodes the length that follows the second header byte.
func payloadLength(short byte, extended []byte) int64 {
	switch len(extended) {
	case 2:
		return int64(binary.BigEndian.Uint16(extended))
	case 8:
		return int64(binary.BigEndian.Uint64(extended) & math.MaxInt64)
	default:
		return int64(short)
	}
}

// readPayload reads and unmasks the payload that follows h into buf, which it
// grows if it must.
func readPayload(r *bufio.Reader, h frameHeader, buf []byte) ([]byte, error) {
	if h.length > maxFrame {
		return buf, fmt.Errorf("%w: %d bytes", errFrameTooLong, h.length)
	}
	if int64(cap(buf)) < h.length {
		buf = make([]byte, h.length)
	}
	buf = buf[:h.length]
	if _, err := io.ReadFull(r, buf); err != nil {
		return buf, err
	}
	if h.masked {
		maskBytes(h.mask, buf)
	}
	return buf, nil
}

// maskBytes applies a masking key to b, which starts at the key's first byte.
func maskBytes(key [4]byte, b []byte) {
	key32 := binary.LittleEndian.Uint32(key[:])
	key64 := uint64(key32)<<32 | uint64(key32)
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^key64)
		b = b[8:]
	}
	for i := range b {
		b[i] ^= key[i&3]
	}
}
