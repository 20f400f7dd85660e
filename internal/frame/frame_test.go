package frame

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"
	"unicode/utf8"
)

// rfcKey and the frames below are the examples of RFC 6455 §5.7.
var rfcKey = [4]byte{0x37, 0xfa, 0x21, 0x3d}

var (
	rfcText       = []byte{0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f}
	rfcMaskedText = []byte{0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58}
	rfcFragments  = []byte{0x01, 0x03, 0x48, 0x65, 0x6c, 0x80, 0x02, 0x6c, 0x6f}
	rfcPing       = []byte{0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f}
	rfcMaskedPong = []byte{0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58}
	rfcBinary256  = append([]byte{0x82, 0x7E, 0x01, 0x00}, make([]byte, 256)...)
	rfcBinary64K  = append([]byte{0x82, 0x7F, 0, 0, 0, 0, 0, 1, 0, 0}, make([]byte, 65536)...)
)

func TestAppendControlBuildsTheExamplesOfTheRFC(t *testing.T) {
	if got := AppendControl(nil, Ping, []byte("Hello"), nil); !bytes.Equal(got, rfcPing) {
		t.Errorf("ping: got % x, want % x", got, rfcPing)
	}
	got := AppendControl(nil, Pong, []byte("Hello"), &rfcKey)
	if !bytes.Equal(got, rfcMaskedPong) {
		t.Errorf("masked pong: got % x, want % x", got, rfcMaskedPong)
	}
}

func TestAppendHeaderUsesTheShortestLength(t *testing.T) {
	tests := []struct {
		length uint64
		want   []byte
	}{
		{0, []byte{0x82, 0}},
		{125, []byte{0x82, 125}},
		{126, []byte{0x82, 126, 0, 126}},
		{256, rfcBinary256[:4]},
		{65535, []byte{0x82, 126, 0xFF, 0xFF}},
		{65536, rfcBinary64K[:10]},
		{math.MaxInt64, []byte{0x82, 127, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("length=%d", tt.length), func(t *testing.T) {
			got := AppendHeader(nil, Header{Fin: true, Opcode: Binary, Length: tt.length})
			if !bytes.Equal(got, tt.want) {
				t.Errorf("got % x, want % x", got, tt.want)
			}
			h := Header{Fin: true, Opcode: Binary, Masked: true, Mask: rfcKey, Length: tt.length}
			want := append(bytes.Clone(tt.want), rfcKey[:]...)
			want[1] |= 0x80
			if got := AppendHeader(nil, h); !bytes.Equal(got, want) {
				t.Errorf("masked: got % x, want % x", got, want)
			}
		})
	}
}

func TestAppendHeaderWritesEveryBitAfterWhatIsThere(t *testing.T) {
	h := Header{RSV: 0b100, Opcode: Text, Length: 1}
	want := []byte{'x', 0x41, 0x01}
	if got := AppendHeader([]byte("x"), h); !bytes.Equal(got, want) {
		t.Errorf("got % x, want % x", got, want)
	}
	h = Header{Fin: true, RSV: 0b011, Opcode: Pong}
	if got, want := AppendHeader(nil, h), []byte{0xBA, 0x00}; !bytes.Equal(got, want) {
		t.Errorf("got % x, want % x", got, want)
	}
}

func TestAppendControlCutsWhatNoControlFrameHolds(t *testing.T) {
	payload := bytes.Repeat([]byte("a"), 126)
	want := append([]byte{0x89, 125}, payload[:125]...)
	if got := AppendControl(nil, Ping, payload, nil); !bytes.Equal(got, want) {
		t.Errorf("got % x, want % x", got, want)
	}
}

func TestAppendControlLeavesThePayloadOfTheCallerAlone(t *testing.T) {
	payload := []byte("Hello")
	AppendControl(nil, Pong, payload, &rfcKey)
	if string(payload) != "Hello" {
		t.Errorf("got %q, want %q", payload, "Hello")
	}
}

func TestAppendClose(t *testing.T) {
	tests := []struct {
		name   string
		code   uint16
		reason string
		mask   *[4]byte
		want   string
	}{
		{"code alone", StatusNormal, "", nil, "\x88\x02\x03\xe8"},
		{"code and reason", StatusGoingAway, "bye", nil, "\x88\x05\x03\xe9bye"},
		{"masked", StatusNormal, "", &rfcKey, "\x88\x82\x37\xfa\x21\x3d\x34\x12"},
		{"no status", StatusNoStatus, "dropped", nil, "\x88\x00"},
		{"no status, masked", StatusNoStatus, "", &rfcKey, "\x88\x80\x37\xfa\x21\x3d"},
		{
			"longest reason", StatusServiceRestart, strings.Repeat("a", 123), nil,
			"\x88\x7d\x03\xf4" + strings.Repeat("a", 123),
		},
		{
			"reason too long", StatusServiceRestart, strings.Repeat("a", 124), nil,
			"\x88\x7d\x03\xf4" + strings.Repeat("a", 123),
		},
		{
			"cut inside a character", StatusServiceRestart, strings.Repeat("a", 121) + "€", nil,
			"\x88\x7b\x03\xf4" + strings.Repeat("a", 121),
		},
		{
			"cut after a character", StatusServiceRestart, strings.Repeat("a", 120) + "€€", nil,
			"\x88\x7d\x03\xf4" + strings.Repeat("a", 120) + "€",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := AppendClose(nil, tt.code, tt.reason, tt.mask); string(got) != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestAppendCloseNeverEndsInsideACharacter(t *testing.T) {
	for pad := range 5 {
		reason := strings.Repeat("a", pad) + strings.Repeat("😀", 40)
		got := AppendClose(nil, StatusNormal, reason, nil)
		if !utf8.Valid(got[4:]) {
			t.Errorf("pad %d: got the reason %q, want valid UTF-8", pad, got[4:])
		}
		if size := len(got) - 2; size > 125 || size <= 125-4 {
			t.Errorf("pad %d: got a payload of %d bytes, want 122 to 125", pad, size)
		}
	}
}

func TestAppendFunctionsDoNotAllocate(t *testing.T) {
	b := make([]byte, 0, 256)
	payload := []byte("Hello")
	key := rfcKey
	allocs := testing.AllocsPerRun(100, func() {
		b = AppendClose(b[:0], StatusGoingAway, "bye", &key)
		b = AppendControl(b, Ping, payload, &key)
	})
	if allocs != 0 {
		t.Errorf("got %v allocations, want 0", allocs)
	}
}

func TestApplyMaskAgreesWithTheRFC(t *testing.T) {
	// RFC 6455 §5.3: octet i is XORed with octet i modulo 4 of the key.
	for size := range 40 {
		for off := range 9 {
			got, want := make([]byte, size), make([]byte, size)
			for i := range want {
				got[i] = byte(i * 7)
				want[i] = byte(i*7) ^ rfcKey[(off+i)%4]
			}
			next := ApplyMask(got, rfcKey, off)
			if !bytes.Equal(got, want) {
				t.Errorf("size %d, offset %d: got % x, want % x", size, off, got, want)
			}
			if next != (off+size)%4 {
				t.Errorf("size %d, offset %d: got next %d, want %d", size, off, next, (off+size)%4)
			}
		}
	}
}

func TestValidCloseCode(t *testing.T) {
	valid := func(code uint16) bool {
		switch code {
		case 1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014:
			return true
		}
		return code/1000 == 3 || code/1000 == 4
	}
	for code := range math.MaxUint16 + 1 {
		if got, want := ValidCloseCode(uint16(code)), valid(uint16(code)); got != want {
			t.Errorf("code %d: got %v, want %v", code, got, want)
		}
		if problem := CloseCodeProblem(code); valid(uint16(code)) != (problem == "") {
			t.Errorf("code %d: the problem is %q", code, problem)
		}
	}
}

func TestWhatIsWrongWithACloseFrameIsSaid(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{CloseCodeProblem(-1), "-1 is not allowed in a Close frame; use 1012, or one from 3000 to 4999"},
		{CloseCodeProblem(1<<16 + 1000), "66536 is not allowed in a Close frame; use 1012, or one from 3000 to 4999"},
		{CloseReasonProblem(""), ""},
		{CloseReasonProblem(strings.Repeat("x", 123)), ""},
		{CloseReasonProblem(strings.Repeat("x", 124)), "has 124 bytes; at most 123 fit into a Close frame"},
		{CloseReasonProblem("\xff"), "is not UTF-8"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

func TestControlOpcodesHaveTheHighBit(t *testing.T) {
	for op := range Opcode(16) {
		if got, want := op.IsControl(), op >= 8; got != want {
			t.Errorf("opcode %#x: got %v, want %v", byte(op), got, want)
		}
	}
}
