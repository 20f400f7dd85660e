package http2_test

import (
	"context"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	_ "github.com/seed-58ac1b1a/caddy-websocket-proxy/http2"
)

// TestServersOffer has Go's two servers say what they offer, in their first frame. Both
// have been initialized after this package, if the language keeps its promise.
func TestServersOffer(t *testing.T) {
	debug := os.Getenv("GODEBUG")
	want := !strings.Contains(debug, "http2xconnect=0")
	for name, configure := range map[string]func(*http.Server) error{
		"net/http":               func(*http.Server) error { return nil },
		"golang.org/x/net/http2": configureAsCaddyDoes,
	} {
		t.Run(name, func(t *testing.T) {
			server := &http.Server{Protocols: new(http.Protocols)}
			server.Protocols.SetUnencryptedHTTP2(true)
			if err := configure(server); err != nil {
				t.Fatal(err)
			}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() {
				_ = server.Serve(l) // until it is closed
				close(ended)
			}()
			t.Cleanup(func() {
				_ = server.Close()
				<-ended
			})
			if got := offers(t, l.Addr().String()); got != want {
				t.Errorf("it offers extended CONNECT: %v, want %v, as GODEBUG is %q", got, want, debug)
			}
		})
	}
}

func configureAsCaddyDoes(s *http.Server) error {
	return http2.ConfigureServer(s, nil) //nolint:staticcheck // deprecated, but what Caddy uses
}

func offers(t *testing.T, addr string) bool {
	t.Helper()
	c, err := new(net.Dialer).DialContext(context.Background(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(http2.ClientPreface)); err != nil {
		t.Fatal(err)
	}
	frame, err := http2.NewFramer(c, c).ReadFrame()
	if err != nil {
		t.Fatal(err)
	}
	settings, ok := frame.(*http2.SettingsFrame)
	if !ok {
		t.Fatalf("the first frame is %v", frame)
	}
	value, _ := settings.Value(http2.SettingEnableConnectProtocol)
	return value == 1
}
