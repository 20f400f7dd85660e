package frame

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"unsafe"
)

// step is one event and how many bytes of the stream had gone by.
type step struct {
	at     int
	event  Event
	header Header
}

// drive feeds chunks to s as a caller does, until each is used up and nothing
// is pending, and returns what happened.
func drive(tb testing.TB, s *Scanner, chunks ...[]byte) []step {
	tb.Helper()
	var steps []step
	at := 0
	for _, p := range chunks {
		for {
			n, ev := s.Next(p)
			if n < 0 || n > len(p) {
				tb.Fatalf("offset %d: got n = %d of %d bytes", at, n, len(p))
			}
			at, p = at+n, p[n:]
			if ev == None {
				break
			}
			steps = append(steps, step{at, ev, s.Header()})
		}
		if len(p) > 0 {
			tb.Fatalf("offset %d: got None with %d bytes left, want none left", at, len(p))
		}
	}
	return steps
}

// testFrame builds a frame; masked ones carry rfcKey.
func testFrame(masked, fin bool, op Opcode, payload string) []byte {
	h := Header{Fin: fin, Opcode: op, Masked: masked, Length: uint64(len(payload))}
	body := []byte(payload)
	if masked {
		h.Mask = rfcKey
		ApplyMask(body, rfcKey, 0)
	}
	return append(AppendHeader(nil, h), body...)
}

// singleBytes splits p as far as it goes.
func singleBytes(p []byte) [][]byte { return slices.Collect(slices.Chunk(p, 1)) }

func bothDirections(t *testing.T, test func(t *testing.T, masked bool)) {
	for _, masked := range []bool{false, true} {
		t.Run(fmt.Sprintf("masked=%v", masked), func(t *testing.T) { test(t, masked) })
	}
}

func TestScannerFollowsTheExamplesOfTheRFC(t *testing.T) {
	tests := []struct {
		name     string
		stream   []byte
		messages uint64
		want     []step
	}{
		{"unmasked text", rfcText, 1, []step{
			{2, HeaderDone, Header{Fin: true, Opcode: Text, Length: 5}},
			{7, FrameDone, Header{Fin: true, Opcode: Text, Length: 5}},
		}},
		{"masked text", rfcMaskedText, 1, []step{
			{6, HeaderDone, Header{Fin: true, Opcode: Text, Masked: true, Mask: rfcKey, Length: 5}},
			{11, FrameDone, Header{Fin: true, Opcode: Text, Masked: true, Mask: rfcKey, Length: 5}},
		}},
		{"fragmented text", rfcFragments, 1, []step{
			{2, HeaderDone, Header{Opcode: Text, Length: 3}},
			{5, FrameDone, Header{Opcode: Text, Length: 3}},
			{7, HeaderDone, Header{Fin: true, Length: 2}},
			{9, FrameDone, Header{Fin: true, Length: 2}},
		}},
		{"ping", rfcPing, 0, []step{
			{2, HeaderDone, Header{Fin: true, Opcode: Ping, Length: 5}},
			{7, FrameDone, Header{Fin: true, Opcode: Ping, Length: 5}},
		}},
		{"masked pong", rfcMaskedPong, 0, []step{
			{6, HeaderDone, Header{Fin: true, Opcode: Pong, Masked: true, Mask: rfcKey, Length: 5}},
			{11, FrameDone, Header{Fin: true, Opcode: Pong, Masked: true, Mask: rfcKey, Length: 5}},
		}},
		{"binary of 256 bytes", rfcBinary256, 1, []step{
			{4, HeaderDone, Header{Fin: true, Opcode: Binary, Length: 256}},
			{260, FrameDone, Header{Fin: true, Opcode: Binary, Length: 256}},
		}},
		{"binary of 64 KiB", rfcBinary64K, 1, []step{
			{10, HeaderDone, Header{Fin: true, Opcode: Binary, Length: 65536}},
			{65546, FrameDone, Header{Fin: true, Opcode: Binary, Length: 65536}},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			splits := map[string][][]byte{"whole": {tt.stream}, "single bytes": singleBytes(tt.stream)}
			for split, chunks := range splits {
				s := NewScanner(tt.stream[1]&0x80 != 0)
				if got := drive(t, &s, chunks...); !slices.Equal(got, tt.want) {
					t.Errorf("%s: got %v, want %v", split, got, tt.want)
				}
				if got := s.Messages(); got != tt.messages {
					t.Errorf("%s: got %d messages, want %d", split, got, tt.messages)
				}
				if !s.AtBoundary() {
					t.Errorf("%s: got no boundary at the end, want one", split)
				}
			}
		})
	}
}

func TestScannerNoticesViolationsAtTheirByte(t *testing.T) {
	tests := []struct {
		name   string
		masked bool
		stream string
		want   int // bytes consumed
	}{
		{"reserved opcode 3", false, "\x83\x00", 1},
		{"reserved opcode 7", false, "\x87\x00", 1},
		{"reserved opcode B", false, "\x8b\x00", 1},
		{"reserved opcode F", false, "\x8f\x00", 1},
		{"reserved opcode in a later frame", false, "\x81\x01x\x83\x00", 4},
		{"ping without FIN", false, "\x09\x00", 1},
		{"pong without FIN", false, "\x0a\x00", 1},
		{"close without FIN", false, "\x08\x00", 1},
		{"continuation of nothing", false, "\x80\x00", 1},
		{"continuation of nothing, not the last", false, "\x00\x00", 1},
		{"continuation after the last fragment", false, "\x01\x00\x80\x00\x80\x00", 5},
		{"text inside a fragmented message", false, "\x01\x01x\x81\x00", 4},
		{"binary inside a fragmented message", false, "\x01\x01x\x89\x00\x02\x00", 6},
		{"mask from the server", false, "\x81\x80abcd", 2},
		{"no mask from the client", true, "\x81\x01x", 2},
		{"ping of 126 bytes", false, "\x89\x7e\x00\x7e", 2},
		{"ping with a length of eight bytes", false, "\x89\x7f\x00\x00\x00\x00\x00\x01\x00\x00", 2},
		{"masked close of 126 bytes", true, "\x88\xfe\x00\x7eabcd", 2},
		{"close of one byte", false, "\x88\x01x", 2},
		{"masked close of one byte", true, "\x88\x81abcdx", 2},
		{"125 in two bytes", false, "\x81\x7e\x00\x7d", 4},
		{"125 in two bytes, masked", true, "\x81\xfe\x00\x7dabcd", 4},
		{"65535 in eight bytes", false, "\x81\x7f\x00\x00\x00\x00\x00\x00\xff\xff", 10},
		{"top bit of eight bytes", false, "\x81\x7f\x80\x00\x00\x00\x00\x01\x00\x00", 10},
		{"top bit of eight bytes, masked", true, "\x81\xff\xff\xff\xff\xff\xff\xff\xff\xffabcd", 10},
		{"text after close", false, "\x88\x00\x81\x00", 3},
		{"close after close", false, "\x88\x02\x03\xe8\x88\x00", 5},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// What follows is bait: an opaque scanner must not bite.
			stream := []byte(tt.stream + "\x81\x00\x81\x01x")
			splits := map[string][][]byte{"whole": {stream}, "single bytes": singleBytes(stream)}
			for split, chunks := range splits {
				s := NewScanner(tt.masked)
				steps := drive(t, &s, chunks...)
				last := steps[len(steps)-1]
				if last.event != Violation || last.at != tt.want {
					t.Errorf("%s: got event %v at %d, want a violation at %d",
						split, last.event, last.at, tt.want)
				}
				if !s.Opaque() || s.AtBoundary() {
					t.Errorf("%s: got opaque %v, boundary %v, want true, false",
						split, s.Opaque(), s.AtBoundary())
				}
			}
		})
	}
}

func TestScannerStaysOpaqueAfterAViolation(t *testing.T) {
	s := NewScanner(false)
	s.Scan([]byte("\x81\x01x\x88\x02\x03\xe9\x00"))
	for _, p := range []string{"", "x", "\x81\x00\x88\x00"} {
		if n, ev := s.Next([]byte(p)); n != len(p) || ev != None {
			t.Errorf("Next(%q): got %d, %v, want %d, %v", p, n, ev, len(p), None)
		}
		if n, ok := s.ToBoundary([]byte(p)); n != len(p) || ok {
			t.Errorf("ToBoundary(%q): got %d, %v, want %d, false", p, n, ok, len(p))
		}
	}
	// What was learnt before it remains.
	if s.Messages() != 1 || !s.Closed() || s.CloseCode() != StatusGoingAway {
		t.Errorf("got %d messages, closed %v, code %d, want 1, true, %d",
			s.Messages(), s.Closed(), s.CloseCode(), StatusGoingAway)
	}
}

func TestScannerLeavesReservedBitsToExtensions(t *testing.T) {
	for rsv := range byte(8) {
		s := NewScanner(false)
		want := Header{Fin: true, RSV: rsv, Opcode: Text, Length: 1}
		steps := drive(t, &s, append(AppendHeader(nil, want), 'x'))
		if s.Opaque() || s.Messages() != 1 || steps[0].header != want {
			t.Errorf("got opaque %v, %d messages, header %v, want false, 1, %v",
				s.Opaque(), s.Messages(), steps[0].header, want)
		}
	}
}

func TestScannerCountsFragmentedMessageOnce(t *testing.T) {
	bothDirections(t, func(t *testing.T, masked bool) {
		s := NewScanner(masked)
		frames := []struct {
			bytes []byte
			want  uint64
		}{
			{testFrame(masked, false, Text, "a"), 0},
			{testFrame(masked, true, Ping, "p"), 0},
			{testFrame(masked, false, Continuation, ""), 0},
			{testFrame(masked, true, Pong, ""), 0},
			{testFrame(masked, true, Continuation, "b"), 1},
			{testFrame(masked, true, Binary, "c"), 2},
			{testFrame(masked, true, Close, ""), 2},
		}
		for i, f := range frames {
			s.Scan(f.bytes)
			if got := s.Messages(); got != f.want {
				t.Errorf("after frame %d: got %d messages, want %d", i, got, f.want)
			}
		}
		if s.Opaque() {
			t.Error("got an opaque scanner, want none")
		}
	})
}

func TestScannerCountsMessageWithItsLastByte(t *testing.T) {
	s := NewScanner(false)
	s.Scan(rfcText[:len(rfcText)-1])
	if got := s.Messages(); got != 0 {
		t.Errorf("before: got %d messages, want 0", got)
	}
	s.Scan(rfcText[len(rfcText)-1:])
	if got := s.Messages(); got != 1 {
		t.Errorf("after: got %d messages, want 1", got)
	}
}

func TestScannerEndsFrameWithoutPayloadInTheNextCall(t *testing.T) {
	bothDirections(t, func(t *testing.T, masked bool) {
		empty := testFrame(masked, true, Text, "")
		for _, next := range [][]byte{nil, {}, empty} {
			s := NewScanner(masked)
			if n, ev := s.Next(empty); n != len(empty) || ev != HeaderDone {
				t.Errorf("first: got %d, %v, want %d, %v", n, ev, len(empty), HeaderDone)
			}
			if s.AtBoundary() {
				t.Error("first: got a boundary, want none yet")
			}
			if n, ev := s.Next(next); n != 0 || ev != FrameDone {
				t.Errorf("next: got %d, %v, want 0, %v", n, ev, FrameDone)
			}
			if !s.AtBoundary() {
				t.Error("next: got no boundary, want one")
			}
		}
	})
}

func TestScannerCollectsCloseCodeOverAnySplit(t *testing.T) {
	closes := []struct {
		name    string
		payload string
		want    uint16
	}{
		{"none", "", StatusNoStatus},
		{"code", "\x03\xe8", StatusNormal},
		{"code and reason", "\x03\xf4restart", StatusServiceRestart},
		{"code that may not be sent", "\x00\x00", 0},
		{"longest", "\x0f\xa1" + string(make([]byte, 123)), 4001},
	}
	for _, tt := range closes {
		t.Run(tt.name, func(t *testing.T) {
			bothDirections(t, func(t *testing.T, masked bool) {
				stream := append(testFrame(masked, true, Text, "x"),
					testFrame(masked, true, Close, tt.payload)...)
				for i := range len(stream) + 1 {
					for j := i; j <= len(stream); j++ {
						s := NewScanner(masked)
						s.Scan(stream[:i])
						s.Scan(stream[i:j])
						s.Scan(stream[j:])
						if !s.Closed() || s.CloseCode() != tt.want {
							t.Fatalf("split at %d and %d: got closed %v, code %d, want true, %d",
								i, j, s.Closed(), s.CloseCode(), tt.want)
						}
					}
				}
			})
		})
	}
}

func TestScannerKnowsNoCloseCodeBeforeTheCloseFrameEnds(t *testing.T) {
	stream := testFrame(false, true, Close, "\x03\xe8bye")
	for i := range stream {
		s := NewScanner(false)
		s.Scan(stream[:i])
		if s.Closed() || s.CloseCode() != 0 {
			t.Errorf("after %d bytes: got closed %v, code %d, want false, 0",
				i, s.Closed(), s.CloseCode())
		}
	}
}

func TestScannerHasNoBoundaryAfterClose(t *testing.T) {
	s := NewScanner(false)
	n, ok := s.ToBoundary(testFrame(false, true, Close, ""))
	if n != 0 || !ok {
		t.Errorf("before: got %d, %v, want 0, true", n, ok)
	}
	s.Scan(testFrame(false, true, Close, ""))
	if s.AtBoundary() || s.Opaque() {
		t.Errorf("after: got boundary %v, opaque %v, want false, false", s.AtBoundary(), s.Opaque())
	}
	if n, ok := s.ToBoundary(nil); n != 0 || ok {
		t.Errorf("after: got %d, %v, want 0, false", n, ok)
	}
}

func TestScannerPassesOverLongPayloads(t *testing.T) {
	s := NewScanner(true)
	h := Header{Fin: true, Opcode: Binary, Masked: true, Mask: rfcKey, Length: math.MaxInt64}
	s.Scan(AppendHeader(nil, h))
	if got := s.Header(); got != h {
		t.Errorf("got %v, want %v", got, h)
	}
	chunk := bytes.Repeat([]byte{0x83}, 4096)
	if n, ev := s.Next(chunk); n != len(chunk) || ev != None {
		t.Errorf("got %d, %v, want %d, %v", n, ev, len(chunk), None)
	}
	if s.Opaque() || s.AtBoundary() {
		t.Errorf("got opaque %v, boundary %v, want false, false", s.Opaque(), s.AtBoundary())
	}
}

func TestScannerAcceptsTheEdgesOfEachLengthForm(t *testing.T) {
	for _, length := range []int{0, 1, 125, 126, 65535, 65536, 70000} {
		bothDirections(t, func(t *testing.T, masked bool) {
			stream := testFrame(masked, true, Binary, string(make([]byte, length)))
			s := NewScanner(masked)
			steps := drive(t, &s, singleBytes(stream)...)
			if len(steps) != 2 || steps[0].header.Length != uint64(length) {
				t.Errorf("got %v, want the header and the end of %d bytes", steps, length)
			}
			if !s.AtBoundary() || s.Messages() != 1 {
				t.Errorf("got boundary %v, %d messages, want true, 1", s.AtBoundary(), s.Messages())
			}
		})
	}
}

func TestScannerToBoundaryStopsAtTheFirstOne(t *testing.T) {
	bothDirections(t, func(t *testing.T, masked bool) {
		first := testFrame(masked, false, Text, "Hel")
		empty := testFrame(masked, true, Continuation, "")
		stream := slices.Concat(first, empty, testFrame(masked, true, Ping, ""))
		s := NewScanner(masked)
		if n, ok := s.ToBoundary(stream); n != 0 || !ok {
			t.Errorf("at the start: got %d, %v, want 0, true", n, ok)
		}
		s.Scan(stream[:1])
		if n, ok := s.ToBoundary(stream[1:3]); n != 2 || ok {
			t.Errorf("inside a frame: got %d, %v, want 2, false", n, ok)
		}
		if n, ok := s.ToBoundary(stream[3:]); n != len(first)-3 || !ok {
			t.Errorf("between fragments: got %d, %v, want %d, true", n, ok, len(first)-3)
		}
		s.Scan(empty[:1])
		if n, ok := s.ToBoundary(stream[len(first)+1:]); n != len(empty)-1 || !ok {
			t.Errorf("after an empty frame: got %d, %v, want %d, true", n, ok, len(empty)-1)
		}
	})
}

func TestScannerToBoundaryRunsToTheEndAfterAViolation(t *testing.T) {
	s := NewScanner(false)
	s.Scan(rfcText[:3])
	stream := append(bytes.Clone(rfcText[3:]), 0x83, 0x00)
	if n, ok := s.ToBoundary(stream); n != len(rfcText)-3 || !ok {
		t.Errorf("got %d, %v, want %d, true", n, ok, len(rfcText)-3)
	}
	s = NewScanner(false)
	s.Scan([]byte{0x81})
	if n, ok := s.ToBoundary([]byte{0xFF, 0x81, 0x00}); n != 3 || ok {
		t.Errorf("got %d, %v, want 3, false", n, ok)
	}
}

func TestScannerZeroValueFollowsAServer(t *testing.T) {
	if got, want := (Scanner{}), NewScanner(false); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestScannerIsSmall(t *testing.T) {
	if got := unsafe.Sizeof(Scanner{}); got > 48 {
		t.Errorf("got %d bytes, want at most 48", got)
	}
}

func TestScannerDoesNotAllocate(t *testing.T) {
	stream := slices.Concat(
		testFrame(true, false, Text, "Hel"), testFrame(true, true, Ping, ""),
		testFrame(true, true, Continuation, "lo"), testFrame(true, true, Close, "\x03\xe8bye"),
		[]byte("after Close"))
	chunks := singleBytes(stream)
	var s Scanner
	allocs := testing.AllocsPerRun(100, func() {
		s = NewScanner(true)
		s.Scan(stream)
		s = NewScanner(true)
		for _, p := range chunks {
			s.Next(p)
			s.ToBoundary(nil)
		}
	})
	if allocs != 0 {
		t.Errorf("got %v allocations, want 0", allocs)
	}
}

func TestLenientScannerFindsTheCloseBehindViolations(t *testing.T) {
	closing := string(AppendClose(nil, 1002, "x", &[4]byte{1, 2, 3, 4}))
	for name, raw := range map[string]string{
		"reserved opcodes":  "\x83\x82abcdxx\x0f\x80abcd",
		"not masked":        "\x81\x02hi",
		"unfinished ping":   "\x09\x81abcdx",
		"long ping":         "\x89\xfe\x00\x80abcd" + strings.Repeat("x", 128),
		"not shortest":      "\x82\xFF\x00\x00\x00\x00\x00\x00\x00\x01abcdx",
		"of nothing":        "\x80\x80abcd",
		"inside of another": "\x01\x81abcdx\x01\x81abcdx",
	} {
		for _, step := range []int{1, 3, 1000} {
			s := NewScanner(true)
			s.BeLenient()
			for rest := []byte(raw + closing); len(rest) > 0; {
				n := min(step, len(rest))
				s.Scan(rest[:n])
				rest = rest[n:]
				if s.Closed() != (len(rest) == 0) {
					t.Fatalf("%s in steps of %d: closed is %t with %d bytes left", name, step, s.Closed(), len(rest))
				}
			}
			if s.CloseCode() != 1002 {
				t.Errorf("%s in steps of %d: the code is %d, want 1002", name, step, s.CloseCode())
			}
		}
	}
	s := NewScanner(true)
	s.BeLenient()
	if s.Scan([]byte("\x82\xFF\xff\xff\xff\xff\xff\xff\xff\xff" + closing)); !s.Opaque() {
		t.Error("a length that is no number is followed")
	}
}
