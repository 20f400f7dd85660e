package main

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"net"
	"os"
	"os/exec"
	"slices"
	"testing"
)

func TestClientsFormRecordsOfEachShape(t *testing.T) {
	payload := slices.Repeat([]int{recordSize}, 4)
	kibs := append(slices.Repeat([]int{1 << 10}, 64), 14)
	want := [][]int{append([]int{14}, payload...), kibs, {recordSize - recordSize%smallFrame}}
	for i, sh := range shapes {
		t.Run(sh.name, func(t *testing.T) {
			var wire recorder
			conn := tlsOver(t, &wire)
			wire.Reset() // of the handshake
			if err := sh.write(conn, sh.frames()); err != nil {
				t.Fatal(err)
			}
			if got := wire.records(t); !slices.Equal(got, want[i]) {
				t.Errorf("got records of %v bytes, want %v", got, want[i])
			}
		})
	}
}

func TestShapesAreMeasuredOnABareBackend(t *testing.T) {
	for _, sh := range shapes {
		sc := quickScale
		sc.bulkBytes = 4 << 20
		s := subject{target: target{addr: startTestBackend(t)}, scale: sc}
		s.proxy = selfAsProxy(t)
		if _, err := measureShape(t.Context(), s, sh); err != nil {
			t.Errorf("%s: %v", sh.name, err)
		}
	}
}

// selfAsProxy is a proxy whose CPU time is that of the test.
func selfAsProxy(t *testing.T) *proxy {
	t.Helper()
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	return &proxy{cmd: &exec.Cmd{Process: self}}
}

// recorder keeps what a client writes.
type recorder struct {
	net.Conn
	bytes.Buffer
}

func (r *recorder) Read(b []byte) (int, error) { return r.Conn.Read(b) }

func (r *recorder) Write(b []byte) (int, error) {
	r.Buffer.Write(b)
	return r.Conn.Write(b)
}

// records returns the bytes of content of each record.
func (r *recorder) records(t *testing.T) []int {
	t.Helper()
	const header, overhead = 5, 17 // RFC 8446 section 5.2: type and tag
	var sizes []int
	for r.Len() > 0 {
		size := int(binary.BigEndian.Uint16(r.Next(header)[3:]))
		r.Next(size)
		sizes = append(sizes, size-overhead)
	}
	return sizes
}

// tlsOver connects a client through wire to a server that swallows everything.
func tlsOver(t *testing.T, wire *recorder) *tls.Conn {
	t.Helper()
	cert, forServer := testCertificate(t)
	forServer.SessionTicketsDisabled = true
	near, far := net.Pipe()
	t.Cleanup(func() { _ = near.Close(); _ = far.Close() })
	go func() {
		server := tls.Server(far, forServer)
		_ = server.Handshake() // the client's error tells all
		for b := make([]byte, 1<<16); ; {
			if _, err := far.Read(b); err != nil {
				return
			}
		}
	}()
	wire.Conn = near
	config := cert.clientConfig()
	config.DynamicRecordSizingDisabled = true
	conn := tls.Client(wire, config)
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	return conn
}
