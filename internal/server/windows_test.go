package server

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// defaultWindow is what a stream or connection has if nothing is said (RFC 9113
// section 6.9.2).
const defaultWindow = 1<<16 - 1

// TestWindowsOnTheWire asks a server what it gives, as Caddy makes one: with two listeners,
// whose first connections may come at once.
func TestWindowsOnTheWire(t *testing.T) {
	for name, test := range map[string]struct {
		set                *http.HTTP2Config
		stream, connection int
		noTunnels          bool
	}{
		"nothing said":          {nil, StreamWindow, ConnWindow, false},
		"other things said":     {&http.HTTP2Config{MaxConcurrentStreams: 7}, StreamWindow, ConnWindow, false},
		"a window for a stream": {&http.HTTP2Config{MaxReceiveBufferPerStream: 3 << 20}, 3 << 20, ConnWindow, false},
		"both windows":          {&http.HTTP2Config{MaxReceiveBufferPerStream: 1 << 16, MaxReceiveBufferPerConnection: 2 << 20}, 1 << 16, 2 << 20, false},
		"no tunnels":            {nil, 1 << 20, 1 << 20, true},
	} {
		t.Run(name, func(t *testing.T) {
			addrs := serve(t, test.set, !test.noTunnels)
			var wait sync.WaitGroup
			for i := range 6 {
				wait.Go(func() {
					stream, connection, streams := firstFrames(t, addrs[i%2])
					if stream != test.stream || connection != test.connection {
						t.Errorf("the windows are %d and %d, want %d and %d", stream, connection, test.stream, test.connection)
					}
					if test.set != nil && test.set.MaxConcurrentStreams != 0 && streams != test.set.MaxConcurrentStreams {
						t.Errorf("%d streams are allowed, want %d", streams, test.set.MaxConcurrentStreams)
					}
				})
			}
			wait.Wait()
		})
	}
}

// TestSharedSettingsAreLeftAlone has a value that two servers have.
func TestSharedSettingsAreLeftAlone(t *testing.T) {
	shared := &http.HTTP2Config{MaxConcurrentStreams: 7}
	one := &http.Server{HTTP2: shared}
	setWindows(one)
	if shared.MaxReceiveBufferPerStream != 0 || shared.MaxReceiveBufferPerConnection != 0 {
		t.Errorf("it has become %+v", shared)
	}
}

// serve runs a server with two handlers of ours at two addresses.
func serve(t *testing.T, set *http.HTTP2Config, tunnels bool) (addrs []string) {
	t.Helper()
	first, second := connContext(tunnels, nil), connContext(tunnels, nil)
	server := &http.Server{
		HTTP2:             set,
		Protocols:         new(http.Protocols),
		ReadHeaderTimeout: time.Minute,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return second(first(ctx, c), c)
		},
	}
	server.Protocols.SetUnencryptedHTTP2(true)
	if err := http2.ConfigureServer(server, new(http2.Server)); err != nil { //nolint:staticcheck // as Caddy does
		t.Fatal(err)
	}
	var served sync.WaitGroup
	for range 2 {
		ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addrs = append(addrs, ln.Addr().String())
		served.Go(func() { _ = server.Serve(ln) })
	}
	t.Cleanup(func() {
		_ = server.Close()
		served.Wait()
	})
	return addrs
}

// firstFrames connects and reads the server's settings and what it adds to the window of
// the connection.
func firstFrames(t *testing.T, addr string) (stream, connection, streams int) {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	framer := http2.NewFramer(c, c)
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Error(err)
	}
	if err := framer.WriteSettings(); err != nil {
		t.Error(err)
	}
	stream, connection = defaultWindow, defaultWindow
	for connection == defaultWindow {
		f, err := framer.ReadFrame()
		if err != nil {
			t.Error(err)
			return
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if v, ok := f.Value(http2.SettingInitialWindowSize); ok {
				stream = int(v)
			}
			if v, ok := f.Value(http2.SettingMaxConcurrentStreams); ok {
				streams = int(v)
			}
		case *http2.WindowUpdateFrame:
			connection += int(f.Increment)
		}
	}
	return stream, connection, streams
}
