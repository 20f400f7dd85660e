package frame

// Event says why [Scanner.Next] stopped.
type Event uint8

const (
	// None means that all bytes were used up and nothing is pending.
	None Event = iota
	// HeaderDone means that a frame header ended here; its payload, if any,
	// follows.
	HeaderDone
	// FrameDone means that a frame ended here.
	FrameDone
	// Violation means that the peer violated the protocol with the last byte
	// consumed; the scanner is opaque from here on.
	Violation
)

// stage is the place of a scanner in the frame.
type stage uint8

const (
	inHeader stage = iota
	inPayload
	opaque
)

// progress is the place of a scanner in the conversation.
type progress uint8

const (
	betweenMessages progress = iota
	insideMessage            // a fragmented message waits for its continuation
	afterClose
)

// Scanner follows the frame headers of one direction of a WebSocket connection
// (RFC 6455 §5.2) and passes over payloads. The bytes may be split anywhere:
// events, their offsets and the state after them depend on the stream alone.
//
// These are violations, each noticed at the byte named, which is the last one
// consumed:
//
//   - first byte of the header: a reserved opcode, a control frame without
//     FIN, a continuation of nothing, a new message inside a fragmented one,
//     any byte after a Close frame;
//   - second byte of the header: a mask bit not as it must be in this direction
//     (§5.1), a control frame of more than 125 bytes, a Close frame of one;
//   - last byte of the length: a length not in its shortest form, or with the
//     top bit of its eight bytes set.
//
// After a violation nobody can say where the next frame starts, so the scanner
// is opaque for good, unless it is lenient. The zero Scanner follows a server, like NewScanner(false).
type Scanner struct {
	length   uint64 // payload of the current frame
	left     uint64 // part of length still to come
	messages uint64
	code     uint16 // of the Close frame, as far as seen
	mask     [4]byte
	b0, b1   byte  // first two bytes of the current header
	seen     uint8 // header bytes seen, of a header that is not complete
	wantMask uint8 // maskBit if frames must be masked, 0 if they must not
	stage    stage
	progress progress
	lenient  bool
}

// NewScanner returns a Scanner at the start of a stream. masked says whether
// the frames must be masked: those of clients must, those of servers must not
// (RFC 6455 §5.1).
func NewScanner(masked bool) Scanner {
	if masked {
		return Scanner{wantMask: maskBit}
	}
	return Scanner{}
}

// BeLenient has the scanner follow frames by what their headers say, legal or not, to
// find the Close frame of a peer whose bytes are of no other use. Only a length that
// is no number leaves it opaque.
func (s *Scanner) BeLenient() { s.lenient = true }

// Next consumes bytes of p until something happens or p is used up, and returns
// how many bytes that took and what happened. It takes constant time for a
// payload of any size. A frame without payload gives HeaderDone and then, in
// the next call, which needs no bytes, FrameDone: call Next until it returns
// None, or a boundary is noticed late. Once opaque it returns len(p) and None.
func (s *Scanner) Next(p []byte) (n int, ev Event) {
	switch s.stage {
	case inPayload:
		return s.payload(p)
	case opaque:
		return len(p), None
	}
	if s.seen == 0 {
		if n := s.wholeHeader(p); n > 0 {
			return n, HeaderDone
		}
	}
	for i, b := range p {
		if ev := s.headerByte(b); ev != None {
			return i + 1, ev
		}
	}
	return len(p), None
}

// Scan consumes all of p, for callers that need no events.
func (s *Scanner) Scan(p []byte) {
	for {
		n, ev := s.Next(p)
		if ev == None {
			return
		}
		p = p[n:]
	}
}

// ToBoundary consumes p up to the next frame boundary, as AtBoundary defines it,
// and returns how many bytes that took and whether there was one. At a boundary
// it consumes nothing; if there is none, all of p.
func (s *Scanner) ToBoundary(p []byte) (n int, ok bool) {
	for !s.AtBoundary() {
		m, ev := s.Next(p[n:])
		n += m
		if ev == None {
			return n, false
		}
	}
	return n, true
}

// Ahead returns how many of the next bytes are payload that the scanner need not
// see: what is left of that of a data frame.
func (s *Scanner) Ahead() uint64 {
	if s.stage != inPayload || s.opcode().IsControl() {
		return 0
	}
	return s.left
}

// Skip passes over n bytes, at most Ahead, that the scanner was not shown.
func (s *Scanner) Skip(n int) {
	if s.left -= uint64(n); s.left == 0 {
		s.endFrame()
	}
}

// Header returns the header of the current frame. It is valid from HeaderDone
// until the first byte of the next header.
func (s *Scanner) Header() Header {
	return Header{
		Fin:    s.b0&finBit != 0,
		RSV:    s.b0 >> 4 & 0x7,
		Opcode: s.opcode(),
		Masked: s.b1&maskBit != 0,
		Mask:   s.mask,
		Length: s.length,
	}
}

// AtBoundary reports whether a control frame may be put in here, which includes
// the places between the fragments of a message (RFC 6455 §5.4): no frame has
// begun since the last one ended, no Close frame has passed, and the scanner is
// not opaque.
func (s *Scanner) AtBoundary() bool {
	return s.stage == inHeader && s.seen == 0 && s.progress != afterClose
}

// Opaque reports whether the scanner has stopped following after a violation.
func (s *Scanner) Opaque() bool { return s.stage == opaque }

// Closed reports whether a complete Close frame has passed (RFC 6455 §5.5.1).
func (s *Scanner) Closed() bool { return s.progress == afterClose }

// CloseCode returns the status code of the Close frame, StatusNoStatus if it had
// none (RFC 6455 §7.1.5), or 0 before Closed. It is what the peer sent, not
// necessarily a ValidCloseCode.
func (s *Scanner) CloseCode() uint16 {
	if !s.Closed() {
		return 0
	}
	return s.code
}

// Messages returns the number of complete data messages, however many frames
// each took (RFC 6455 §5.4). Control frames are no messages.
func (s *Scanner) Messages() uint64 { return s.messages }

func (s *Scanner) opcode() Opcode { return Opcode(s.b0 & 0xF) }

func (s *Scanner) beginPayload() {
	s.seen, s.left, s.stage = 0, s.length, inPayload
}

// payload passes over what p holds of the payload.
func (s *Scanner) payload(p []byte) (int, Event) {
	n := int(min(s.left, uint64(len(p))))
	if s.opcode() == Close {
		s.collectCode(p[:n])
	}
	s.left -= uint64(n)
	if s.left > 0 {
		return n, None
	}
	s.endFrame()
	return n, FrameDone
}

// collectCode takes the first two payload bytes of a Close frame out of p, the
// next part of that payload (RFC 6455 §5.5.1).
func (s *Scanner) collectCode(p []byte) {
	off := s.length - s.left
	for i := off; i < closeCodeSize && i-off < uint64(len(p)); i++ {
		// The mask is zero in a direction without masks.
		s.code = s.code<<8 | uint16(p[i-off]^s.mask[i])
	}
}

func (s *Scanner) endFrame() {
	s.stage = inHeader
	switch op := s.opcode(); {
	case op == Close:
		s.progress = afterClose
		if s.length == 0 {
			s.code = StatusNoStatus
		}
	case op.IsControl():
		// Between fragments it leaves the message open (RFC 6455 §5.4).
	case s.b0&finBit != 0:
		s.progress = betweenMessages
		s.messages++
	default:
		s.progress = insideMessage
	}
}
