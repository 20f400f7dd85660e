package testbed_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// The frames are the examples of RFC 6455 §5.7.
func TestFrameBytes(t *testing.T) {
	hello := testbed.NewFrame(testbed.Text, "Hello")
	if got, want := hello.Bytes(false), []byte("\x81\x05Hello"); !bytes.Equal(got, want) {
		t.Errorf("unmasked: got %x, want %x", got, want)
	}
	hello.MaskKey = [4]byte{0x37, 0xfa, 0x21, 0x3d}
	want := []byte{0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58}
	if got := hello.Bytes(true); !bytes.Equal(got, want) {
		t.Errorf("masked: got %x, want %x", got, want)
	}
	long := testbed.NewFrame(testbed.Binary, strings.Repeat("x", 0x10000)).Bytes(false)
	if want := []byte{0x82, 0x7F, 0, 0, 0, 0, 0, 1, 0, 0}; !bytes.HasPrefix(long, want) {
		t.Errorf("65536 bytes: got header %x, want %x", long[:10], want)
	}
}
