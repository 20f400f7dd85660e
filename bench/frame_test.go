package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"
)

func TestFrameSurvivesEncodingAndDecoding(t *testing.T) {
	for _, length := range []int{0, 1, 7, 8, 125, 126, 65535, 65536, 1 << 20} {
		for _, mask := range []*[4]byte{nil, &clientMask} {
			t.Run(fmt.Sprintf("length=%d/masked=%t", length, mask != nil), func(t *testing.T) {
				want := testPayload(length)
				wire := appendFrame(nil, opBinary, mask, want)
				wire = appendFrame(wire, opText, nil, []byte("next"))

				r := bufio.NewReader(bytes.NewReader(wire))
				h, err := readHeader(r)
				if err != nil {
					t.Fatal(err)
				}
				if !h.fin || h.opcode != opBinary || h.masked != (mask != nil) || h.length != int64(length) {
					t.Errorf("unexpected header %+v", h)
				}
				got, err := readPayload(r, h, nil)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, want) {
					t.Error("payload differs")
				}
				if h, err = readHeader(r); err != nil || h.opcode != opText {
					t.Errorf("next header is %+v, %v; want a text frame", h, err)
				}
			})
		}
	}
}

func TestFrameMatchesTheExampleOfTheRFC(t *testing.T) {
	// RFC 6455 section 5.7: a single-frame masked text message "Hello".
	want := []byte{0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58}
	if got := appendFrame(nil, opText, &clientMask, []byte("Hello")); !bytes.Equal(got, want) {
		t.Errorf("got % x, want % x", got, want)
	}
}

func TestTruncatedHeaderIsAnError(t *testing.T) {
	wire := appendFrame(nil, opBinary, &clientMask, testPayload(70000))
	for n := range 14 {
		_, err := readHeader(bufio.NewReader(bytes.NewReader(wire[:n])))
		if !errors.Is(err, io.EOF) {
			t.Errorf("%d bytes: got error %v, want EOF", n, err)
		}
	}
}

func TestOversizedFrameIsRefusedBeforeAllocating(t *testing.T) {
	_, err := readPayload(nil, frameHeader{length: maxFrame + 1}, nil)
	if !errors.Is(err, errFrameTooLong) {
		t.Errorf("got error %v, want %v", err, errFrameTooLong)
	}
}

func testPayload(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7)
	}
	return b
}
