package server

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/net/http2"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// told is done when the log says whether WebSockets are offered over HTTP/2, which is the
// same for all servers and configurations of a process.
var told sync.Once

// offered tells whether they are, for which a server is asked once.
var offered = sync.OnceValues(offersExtendedConnect)

// TellHTTP2 says in the log whether browsers get WebSockets over HTTP/2, once in the life of
// the process, if the server of a handler speaks HTTP/2.
func TellHTTP2(ctx caddy.Context) error {
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok && speaksHTTP2(server) {
		told.Do(func() {
			yes, err := offered()
			tellHTTP2(ctx.Logger(), os.Getenv("GODEBUG"), yes, err)
		})
	}
	return nil
}

// speaksHTTP2 reports whether a server that is being provisioned will speak HTTP/2 at one of
// its addresses.
func speaksHTTP2(s *caddyhttp.Server) bool {
	speaks := func(protocols []string) bool {
		return slices.Contains(protocols, "h2c") || slices.Contains(protocols, "h2") && len(s.TLSConnPolicies) > 0
	}
	for i := range s.Listen {
		protocols := s.Protocols
		if i < len(s.ListenProtocols) && s.ListenProtocols[i] != nil {
			protocols = s.ListenProtocols[i]
		}
		if speaks(protocols) {
			return true
		}
	}
	return false
}

// tellHTTP2 says what is offered, and if nothing is, why, which is also what to do.
func tellHTTP2(log *zap.Logger, debug string, offered bool, err error) {
	level, why := zap.InfoLevel, "this build does not have them; "+
		"if browsers should use them, add --with github.com/seed-58ac1b1a/caddy-websocket-proxy/http2 to it"
	switch {
	case err != nil:
		log.Warn("it is not known whether WebSockets over HTTP/2 are on", zap.Error(err))
		return
	case offered:
		log.Info("WebSockets over HTTP/2 are on")
		return
	case strings.Contains(debug, "http2xconnect=1"):
		level, why = zap.WarnLevel, "this version of Go, or of Caddy, does not do what GODEBUG says; please report it"
	case strings.Contains(debug, "http2xconnect="):
		why = "GODEBUG says so"
	}
	log.Log(level, "WebSockets over HTTP/2 are off", zap.String("why", why), zap.String("GODEBUG", debug))
}

// offersExtendedConnect asks an HTTP/2 server of the kind that Caddy has whether it offers
// extended CONNECT (RFC 8441 section 3): it says so in its first frame.
func offersExtendedConnect() (bool, error) {
	client, server := net.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		new(http2.Server).ServeConn(server, new(http2.ServeConnOpts)) //nolint:staticcheck // deprecated, but what Caddy uses
	}()
	defer func() {
		_ = client.Close() // a pipe's never fails
		<-ended
	}()
	const timeout = 10 * time.Second // nothing is waited for but a turn of the processor
	_ = client.SetDeadline(time.Now().Add(timeout))
	if _, err := client.Write([]byte(http2.ClientPreface)); err != nil {
		return false, fmt.Errorf("asking an HTTP/2 server: %w", err)
	}
	frame, err := http2.NewFramer(client, client).ReadFrame()
	if err != nil {
		return false, fmt.Errorf("asking an HTTP/2 server: %w", err)
	}
	settings, ok := frame.(*http2.SettingsFrame)
	if !ok {
		return false, fmt.Errorf("an HTTP/2 server began with %v", frame)
	}
	value, _ := settings.Value(http2.SettingEnableConnectProtocol)
	return value == 1, nil
}
