package main

import (
	"fmt"
	"net"
	"strings"
	"testing"
)

func TestClientAndBackendUnderstandEachOther(t *testing.T) {
	const total, frame = 1 << 20, 4096
	tests := map[string]struct {
		path string
		use  func(c *client) error
	}{
		"echo of a small message": {echoPath, func(c *client) error {
			return c.echo(newMessage(smallSize))
		}},
		"echo of a message longer than all buffers": {echoPath, func(c *client) error {
			return c.echo(newMessage(300_000))
		}},
		"sink": {fmt.Sprintf("%s?bytes=%d", sinkPath, total), func(c *client) error {
			m := newMessage(frame)
			for range total / frame {
				if _, err := c.conn.Write(m.frame); err != nil {
					return err
				}
			}
			_, err := c.receive()
			return err
		}},
		"source": {fmt.Sprintf("%s?bytes=%d&frame=%d", sourcePath, total, frame), func(c *client) error {
			if _, err := c.conn.Write(newMessage(1).frame); err != nil {
				return err
			}
			return c.skip(total)
		}},
	}
	backend := target{addr: startTestBackend(t)}
	for way, over := range map[string]target{
		"HTTP/1.1": backend,
		http2Name:  startStreamServer(t, backend, carriage{http2Name, 2}),
		http3Name:  startStreamServer(t, backend, carriage{http3Name, 2}),
	} {
		for name, tc := range tests {
			t.Run(way+", "+name, func(t *testing.T) {
				c, err := over.dial(t.Context(), tc.path, smallBuffer)
				if err != nil {
					t.Fatal(err)
				}
				defer c.conn.Close()
				if err := tc.use(c); err != nil {
					t.Fatal(err)
				}
				if err := c.close(); err != nil {
					t.Errorf("closing: %v", err)
				}
			})
		}
	}
}

func TestClientSkipsPongsWhileItWaitsForMessages(t *testing.T) {
	backend := target{addr: startTestBackend(t)}
	c, err := backend.dial(t.Context(), echoPath, smallBuffer)
	if err != nil {
		t.Fatal(err)
	}
	defer c.conn.Close()
	// The backend answers a ping with a pong, which receive skips.
	if _, err := c.conn.Write(appendFrame(nil, opPing, &clientMask, []byte("x"))); err != nil {
		t.Fatal(err)
	}
	if err := c.echo(newMessage(smallSize)); err != nil {
		t.Error(err)
	}
}

func TestRefusedUpgradeIsReportedWithItsStatus(t *testing.T) {
	listener := testListener(t)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = conn.Write([]byte("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"))
		_, _ = conn.Read(make([]byte, 1024)) // a close with unread data would be a reset
	}()
	_, err := target{addr: listener.Addr().String()}.dial(t.Context(), echoPath, smallBuffer)
	if err == nil || !strings.Contains(err.Error(), "502 Bad Gateway") {
		t.Errorf("got error %v, want one that names the status", err)
	}
}

func TestLatencyIsMeasuredOnABareBackend(t *testing.T) {
	s := subject{target: target{addr: startTestBackend(t)}, scale: quickScale}
	latency, err := measureLatency(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if latency[0] <= 0 {
		t.Errorf("got latency %v, want some", latency[0])
	}
}

// startTestBackend serves one backend and returns its address.
func startTestBackend(t *testing.T) string {
	t.Helper()
	listener := testListener(t)
	go acceptLoop(listener, false)
	return listener.Addr().String()
}

func testListener(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener
}
