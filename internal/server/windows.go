package server

import (
	"context"
	"net/http"
)

// The flow control windows for what clients send (RFC 9113 section 5.2). By default both
// are 1 MiB, so one tunnel whose upstream reads nothing takes what all streams of its
// connection share, and none of them hears anything of its client any more.
const (
	// StreamWindow is what a client may send on a stream before somebody reads it. An
	// upload is never faster than this each round trip.
	StreamWindow = 256 << 10
	// ConnWindow is the same of all streams of a connection, and the memory that a
	// connection can claim by this: that of 64 streams which nobody reads. net/http
	// documents less than 4 MiB, and takes more.
	ConnWindow = 16 << 20
)

// setWindowsOf sets the windows of the server that a connection has come to.
func setWindowsOf(ctx context.Context) {
	if server, ok := ctx.Value(http.ServerContextKey).(*http.Server); ok {
		setWindows(server)
	}
}

// setWindows leaves alone what somebody else has set, and the value that may belong to
// several servers.
func setWindows(server *http.Server) {
	var settings http.HTTP2Config
	if server.HTTP2 != nil {
		settings = *server.HTTP2
	}
	if settings.MaxReceiveBufferPerStream == 0 {
		settings.MaxReceiveBufferPerStream = StreamWindow
	}
	if settings.MaxReceiveBufferPerConnection == 0 {
		settings.MaxReceiveBufferPerConnection = ConnWindow
	}
	server.HTTP2 = &settings
}
