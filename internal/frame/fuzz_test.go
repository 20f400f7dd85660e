package frame

import (
	"bytes"
	"slices"
	"testing"
)

// naive is what RFC 6455 says about a stream, written down a second time: it
// takes one byte after the other, keeps whole headers and shares no code with
// Scanner.
type naive struct {
	masked   bool
	header   []byte
	left     uint64
	body     []byte // of control frames, unmasked
	inBody   bool
	open     bool // a fragmented message
	closed   bool
	opaque   bool
	code     uint16
	messages uint64
	steps    []step
}

func (r *naive) run(stream []byte) {
	for i, b := range stream {
		switch {
		case r.opaque:
			return
		case r.inBody:
			r.bodyByte(i+1, b)
		default:
			r.header = append(r.header, b)
			r.headerByte(i + 1)
		}
	}
}

func (r *naive) emit(at int, ev Event, h Header) {
	r.steps = append(r.steps, step{at, ev, h})
}

func (r *naive) parse() Header {
	b0 := r.header[0]
	h := Header{Fin: b0 > 127, RSV: b0 / 16 % 8, Opcode: Opcode(b0 % 16)}
	rest := r.header[2:]
	h.Masked, h.Length = r.header[1] > 127, uint64(r.header[1]%128)
	for _, form := range []struct {
		mark uint64
		size int
	}{{126, 2}, {127, 8}} {
		if h.Length == form.mark {
			h.Length = 0
			for _, b := range rest[:form.size] {
				h.Length = h.Length*256 + uint64(b)
			}
			rest = rest[form.size:]
			break
		}
	}
	copy(h.Mask[:], rest)
	return h
}

func (r *naive) headerByte(at int) {
	lengthEnd := 2
	if len(r.header) >= 2 {
		lengthEnd += map[byte]int{126: 2, 127: 8}[r.header[1]%128]
	}
	size := lengthEnd
	if r.masked {
		size += 4
	}
	if r.illegal(lengthEnd) {
		r.opaque = true
		r.emit(at, Violation, Header{})
		return
	}
	if len(r.header) < 2 || len(r.header) < size {
		return
	}
	h := r.parse()
	r.emit(at, HeaderDone, h)
	r.inBody, r.left, r.body = true, h.Length, nil
	if r.left == 0 {
		r.end(at)
	}
}

func (r *naive) illegal(lengthEnd int) bool {
	op, fin := r.header[0]%16, r.header[0] > 127
	switch len(r.header) {
	case 1:
		switch op {
		case 0:
			return r.closed || !r.open
		case 1, 2:
			return r.closed || r.open
		case 8, 9, 10:
			return r.closed || !fin
		default:
			return true
		}
	case 2:
		length := r.header[1] % 128
		if (r.header[1] > 127) != r.masked {
			return true
		}
		return op >= 8 && length > 125 || op == 8 && length == 1
	case lengthEnd:
		length := r.parse().Length
		if lengthEnd == 4 {
			return length <= 125
		}
		return length <= 65535 || length > 9223372036854775807
	}
	return false
}

func (r *naive) bodyByte(at int, b byte) {
	h := r.parse()
	if h.Opcode >= 8 {
		r.body = append(r.body, b^h.Mask[len(r.body)%4])
	}
	r.left--
	if r.left == 0 {
		r.end(at)
	}
}

func (r *naive) end(at int) {
	h := r.parse()
	r.emit(at, FrameDone, h)
	r.header, r.inBody = nil, false
	switch h.Opcode {
	case 0, 1, 2:
		r.open = !h.Fin
		if h.Fin {
			r.messages++
		}
	case 8:
		r.closed, r.code = true, 1005
		if len(r.body) > 0 {
			r.code = uint16(r.body[0])*256 + uint16(r.body[1])
		}
	}
}

// split cuts stream into chunks of the given sizes, over and over; 0 is an
// empty chunk.
func split(stream, sizes []byte) [][]byte {
	var chunks [][]byte
	for i := 0; len(stream) > 0; i++ {
		if i == len(sizes) && !slices.ContainsFunc(sizes, func(b byte) bool { return b > 0 }) {
			return append(chunks, stream)
		}
		n := min(int(sizes[i%len(sizes)]), len(stream))
		chunks = append(chunks, stream[:n])
		stream = stream[n:]
	}
	return chunks
}

func FuzzScannerSplit(f *testing.F) {
	for _, stream := range [][]byte{
		rfcText, rfcMaskedText, rfcFragments, rfcPing, rfcMaskedPong, rfcBinary256,
		slices.Concat(rfcFragments[:5], rfcPing, rfcFragments[5:], rfcText),
		slices.Concat(rfcMaskedText, testFrame(true, true, Close, "\x03\xe8bye"), []byte("x")),
		slices.Concat(rfcText, testFrame(false, true, Close, "\x03\xe9")),
		testFrame(false, true, Close, ""),
		testFrame(true, true, Close, ""),
		testFrame(true, true, Binary, string(make([]byte, 300))),
		slices.Concat(testFrame(false, false, Text, ""), testFrame(false, true, Continuation, "")),
		rfcBinary64K[:40],
		[]byte("\x83\x00"), []byte("\x8b\x00"), []byte("\x09\x00"), []byte("\x80\x00"),
		[]byte("\x01\x00\x81\x00"), []byte("\x89\x7e\x00\x7e"), []byte("\x88\x01x"),
		[]byte("\x81\x7e\x00\x7d"), []byte("\x81\xfe\x00\x7dabcd"),
		[]byte("\x81\x7f\x00\x00\x00\x00\x00\x00\xff\xff"),
		[]byte("\x81\xff\x80\x00\x00\x00\x00\x00\x00\x00abcd"),
	} {
		for _, masked := range []bool{false, true} {
			f.Add(stream, []byte{1}, masked)
			f.Add(stream, []byte{3, 0, 2}, masked)
		}
	}
	f.Fuzz(func(t *testing.T, stream, sizes []byte, masked bool) {
		sizes = sizes[:min(len(sizes), 32)] // a long list of zeros only takes time
		whole, parts, scanned := NewScanner(masked), NewScanner(masked), NewScanner(masked)
		want := drive(t, &whole, stream)
		if got := drive(t, &parts, split(stream, sizes)...); !slices.Equal(got, want) {
			t.Errorf("in parts: got %v, want %v", got, want)
		}
		if parts != whole {
			t.Errorf("in parts: got the state %+v, want %+v", parts, whole)
		}
		for _, p := range split(stream, sizes) {
			scanned.Scan(p)
		}
		if scanned != whole {
			t.Errorf("by Scan: got the state %+v, want %+v", scanned, whole)
		}
		compareWithNaive(t, stream, masked, &whole, want)
		checkToBoundary(t, split(stream, sizes), masked, want)
	})
}

func compareWithNaive(t *testing.T, stream []byte, masked bool, s *Scanner, steps []step) {
	t.Helper()
	ref := naive{masked: masked}
	ref.run(stream)
	got := slices.Clone(steps)
	for i := range got {
		if got[i].event == Violation {
			got[i].header = Header{} // means nothing there
		}
	}
	if !slices.Equal(got, ref.steps) {
		t.Errorf("got %v, the reference says %v", got, ref.steps)
	}
	if s.Opaque() != ref.opaque || s.Closed() != ref.closed ||
		s.CloseCode() != ref.code || s.Messages() != ref.messages {
		t.Errorf("got opaque %v, closed %v, code %d, %d messages, the reference says %v, %v, %d, %d",
			s.Opaque(), s.Closed(), s.CloseCode(), s.Messages(),
			ref.opaque, ref.closed, ref.code, ref.messages)
	}
	boundary := len(ref.header) == 0 && !ref.inBody && !ref.closed && !ref.opaque
	if s.AtBoundary() != boundary {
		t.Errorf("got boundary %v, the reference says %v", s.AtBoundary(), boundary)
	}
}

// checkToBoundary walks chunks from boundary to boundary and compares with the
// ends of frames in steps.
func checkToBoundary(t *testing.T, chunks [][]byte, masked bool, steps []step) {
	t.Helper()
	var got, want []int
	for _, st := range steps {
		if st.event == FrameDone && st.header.Opcode != Close {
			want = append(want, st.at)
		}
	}
	s, at := NewScanner(masked), 0
	for _, p := range chunks {
		for len(p) > 0 {
			if s.AtBoundary() { // one byte is enough to leave it
				s.Scan(p[:1])
				at, p = at+1, p[1:]
			}
			n, ok := s.ToBoundary(p)
			if !ok && n != len(p) {
				t.Errorf("offset %d: got %d, %v, want all %d bytes consumed", at, n, ok, len(p))
			}
			at, p = at+n, p[n:]
			if ok {
				got = append(got, at)
			}
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got the boundaries %v, want %v", got, want)
	}
}

func FuzzAppendHeaderRoundTrip(f *testing.F) {
	f.Add(true, byte(0), byte(Text), false, []byte{}, uint64(5))
	f.Add(false, byte(4), byte(Binary), true, rfcKey[:], uint64(126))
	f.Add(true, byte(0), byte(Close), true, rfcKey[:], uint64(125))
	f.Add(true, byte(7), byte(Pong), false, []byte{}, uint64(0))
	f.Add(true, byte(0), byte(Binary), false, []byte{}, uint64(1)<<63-1)
	f.Add(true, byte(0), byte(Binary), true, []byte{1}, uint64(65536))
	f.Fuzz(func(t *testing.T, fin bool, rsv, op byte, masked bool, key []byte, length uint64) {
		h := Header{Fin: fin, RSV: rsv & 7, Opcode: Opcode(op & 15), Masked: masked, Length: length >> 1}
		if masked {
			copy(h.Mask[:], key)
		}
		wire := AppendHeader(nil, h)
		if again := AppendHeader([]byte("x"), h); !bytes.Equal(again[1:], wire) {
			t.Errorf("got % x after a byte, want % x", again[1:], wire)
		}
		s := NewScanner(masked)
		if h.Opcode == Continuation {
			s.Scan(testFrame(masked, false, Text, ""))
		}
		n, ev := s.Next(wire)
		if h.Opcode.IsControl() && (!h.Fin || h.Length > 125 || h.Opcode == Close && h.Length == 1) ||
			h.Opcode&7 > 2 {
			if ev != Violation {
				t.Errorf("%+v: got event %v, want a violation", h, ev)
			}
			return
		}
		if n != len(wire) || ev != HeaderDone || s.Header() != h {
			t.Errorf("got %d, %v, %+v, want %d, %v, %+v", n, ev, s.Header(), len(wire), HeaderDone, h)
		}
	})
}

// What a scanner is told to be ahead may be skipped at any time without a
// difference to what it finds.
func FuzzSkip(f *testing.F) {
	f.Add([]byte{0x82, 3, 1, 2, 3, 0x89, 0, 0x01, 1, 7, 0x80, 0, 0x88, 2, 3, 232}, []byte{2, 1}, false)
	f.Fuzz(func(t *testing.T, stream, cuts []byte, masked bool) {
		shown, skipping := NewScanner(masked), NewScanner(masked)
		for i := 0; len(stream) > 0; i++ {
			n := len(stream)
			if i < len(cuts) {
				n = min(n, int(cuts[i]/2)+1)
			}
			ahead := skipping.Ahead()
			shown.Scan(stream[:n])
			if skip := int(min(ahead, uint64(n))); i < len(cuts) && cuts[i]%2 == 0 && skip > 0 {
				skipping.Skip(skip)
				skipping.Scan(stream[skip:n])
			} else {
				skipping.Scan(stream[:n])
			}
			if shown != skipping {
				t.Fatalf("after %d bytes: %+v, with some skipped %+v", n, shown, skipping)
			}
			stream = stream[n:]
		}
	})
}
