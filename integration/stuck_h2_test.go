package integration

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// TestClientThatTakesNothing has clients of HTTP/2 that allow for more than the
// system holds, and then do not read from their connection: its server cannot even
// reset a stream.
func TestClientThatTakesNothing(t *testing.T) {
	t.Parallel()
	for name, secure := range map[string]bool{"h2": true, "h2c": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			up := testbed.NewUpstream(t, flood)
			c := startStreaming(t, proxyTo(up.Addr, "write_timeout 1s"))
			openAndTakeNothing(t, c, secure)
			line := c.log.waitOne(t, tunnelClosed)
			if got := line.str("reason"); got != "write_timeout" {
				t.Errorf("the tunnel ended with reason %s, want write_timeout", got)
			}

			c.reload(t, site(proxyTo(up.Addr), streaming))
			openAndTakeNothing(t, c, secure)
			c.signal(t, syscall.SIGTERM)
			c.expectExit(t)
			up.WaitOpen(t, 0)
		})
	}
}

// openAndTakeNothing opens a WebSocket and reads no more than the answer.
func openAndTakeNothing(t *testing.T, c *caddy, secure bool) {
	t.Helper()
	openWide(t, c, secure)
}

// openWide opens a WebSocket in a connection of HTTP/2 of its own, as stream 1, and allows
// for more than any system holds.
func openWide(t *testing.T, c *caddy, secure bool) net.Conn {
	t.Helper()
	conn := dialH2Transport(t, c, secure)
	t.Cleanup(func() { _ = conn.Close() })
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetReadBuffer(64 << 10)
	}
	var preface, block bytes.Buffer
	fields := hpack.NewEncoder(&block)
	for _, field := range [][2]string{
		{":method", "CONNECT"},
		{":protocol", "websocket"},
		{":scheme", "http"},
		{":authority", c.http},
		{":path", "/"},
		{"sec-websocket-version", "13"},
	} {
		if err := fields.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}); err != nil {
			t.Fatal(err)
		}
	}
	preface.WriteString(http2.ClientPreface)
	framer := http2.NewFramer(&preface, conn)
	const window = 1 << 30
	for _, write := range []func() error{
		func() error {
			return framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window})
		},
		func() error { return framer.WriteWindowUpdate(0, window) },
		func() error {
			return framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true})
		},
	} {
		if err := write(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.Copy(conn, &preface); err != nil {
		t.Fatal(err)
	}
	if err := awaitHeaders(framer); err != nil {
		t.Fatal(err)
	}
	return conn
}

// awaitHeaders reads until there is an answer, which has to be 200.
func awaitHeaders(framer *http2.Framer) error {
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		f, err := framer.ReadFrame()
		if err != nil {
			return err
		}
		if head, ok := f.(*http2.MetaHeadersFrame); ok {
			if status := head.PseudoValue("status"); status != "200" {
				return fmt.Errorf("the answer has status %s", status)
			}
			return nil
		}
	}
}
