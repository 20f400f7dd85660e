package testbed

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Opcodes of RFC 6455 §5.2.
const (
	Continuation byte = 0x0
	Text         byte = 0x1
	Binary       byte = 0x2
	Close        byte = 0x8
	Ping         byte = 0x9
	Pong         byte = 0xA
)

// maxPayload keeps a wrong length field from exhausting the memory.
const maxPayload = 64 << 20

var errLengthNotMinimal = errors.New("payload length is not encoded in the fewest bytes")

// Frame is one WebSocket frame. Payload is always unmasked.
type Frame struct {
	Fin     bool
	RSV     byte // RSV1 to RSV3 as a number from 0 to 7; RSV1 is 4
	Opcode  byte
	Payload []byte

	Masked  bool    // set when reading
	MaskKey [4]byte // set when reading; if zero, writing takes a random key
}

// NewFrame returns an unfragmented frame.
func NewFrame(opcode byte, payload string) Frame {
	return Frame{Fin: true, Opcode: opcode, Payload: []byte(payload)}
}

// NewClose returns a Close frame with the payload of [ClosePayload].
func NewClose(code uint16, reason string) Frame {
	return Frame{Fin: true, Opcode: Close, Payload: ClosePayload(code, reason)}
}

// ClosePayload returns the body of a Close frame; code 0 makes it empty.
func ClosePayload(code uint16, reason string) []byte {
	if code == 0 {
		return nil
	}
	return append(binary.BigEndian.AppendUint16(nil, code), reason...)
}

// CloseStatus splits the body of a Close frame. The code is 0 if there is none.
func (f Frame) CloseStatus() (code uint16, reason string) {
	if len(f.Payload) < 2 {
		return 0, ""
	}
	return binary.BigEndian.Uint16(f.Payload), string(f.Payload[2:])
}

// String describes the frame for failure messages.
func (f Frame) String() string {
	return fmt.Sprintf("frame{fin %t, rsv %d, opcode %#x, masked %t, %d bytes %s}",
		f.Fin, f.RSV, f.Opcode, f.Masked, len(f.Payload), brief(f.Payload))
}

// Bytes returns the frame as it goes over the wire. It does not check that the
// frame is a legal one, but always encodes the length in the fewest bytes.
func (f Frame) Bytes(masked bool) []byte {
	first := f.RSV&7<<4 | f.Opcode&0xF
	if f.Fin {
		first |= 0x80
	}
	out := appendLength([]byte{first}, len(f.Payload))
	if !masked {
		return append(out, f.Payload...)
	}

	key := f.MaskKey
	if key == [4]byte{} {
		_, _ = rand.Read(key[:]) // never fails, see crypto/rand
	}
	out[1] |= 0x80
	out = append(out, key[:]...)
	body := len(out)
	out = append(out, f.Payload...)
	applyMask(out[body:], key)
	return out
}

func appendLength(b []byte, n int) []byte {
	switch {
	case n <= 125:
		return append(b, byte(n))
	case n <= 0xFFFF:
		return binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		return binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
}

func applyMask(b []byte, key [4]byte) {
	for i := range b {
		b[i] ^= key[i%4]
	}
}

// decodeFrame reads one frame. An end before its first byte is io.EOF, one
// inside it io.ErrUnexpectedEOF.
func decodeFrame(r io.Reader) (Frame, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return Frame{}, err
	}
	f := Frame{
		Fin:    head[0]&0x80 != 0,
		RSV:    head[0] >> 4 & 7,
		Opcode: head[0] & 0xF,
		Masked: head[1]&0x80 != 0,
	}
	n, err := decodeLength(r, head[1]&0x7F)
	if err != nil {
		return f, err
	}
	if f.Masked {
		if err := readInside(r, f.MaskKey[:]); err != nil {
			return f, err
		}
	}
	f.Payload = make([]byte, n)
	if err := readInside(r, f.Payload); err != nil {
		return f, err
	}
	if f.Masked {
		applyMask(f.Payload, f.MaskKey)
	}
	return f, nil
}

func decodeLength(r io.Reader, short byte) (uint64, error) {
	var b [8]byte
	var n, least uint64
	switch short {
	default:
		return uint64(short), nil
	case 126:
		if err := readInside(r, b[6:]); err != nil {
			return 0, err
		}
		n, least = binary.BigEndian.Uint64(b[:]), 126
	case 127:
		if err := readInside(r, b[:]); err != nil {
			return 0, err
		}
		n, least = binary.BigEndian.Uint64(b[:]), 0x10000
	}
	if n < least {
		return 0, errLengthNotMinimal
	}
	if n > maxPayload {
		return 0, fmt.Errorf("payload of %d bytes is longer than a test may send", n)
	}
	return n, nil
}

// readInside is io.ReadFull for a place where the stream must not end.
func readInside(r io.Reader, b []byte) error {
	_, err := io.ReadFull(r, b)
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// brief quotes the beginning of b.
func brief(b []byte) string {
	const most = 64
	if len(b) <= most {
		return fmt.Sprintf("%q", b)
	}
	return fmt.Sprintf("%q...", b[:most])
}
