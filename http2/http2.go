// Package http2 switches on WebSockets over HTTP/2 (RFC 8441), in each program that
// imports it. It has nothing else, so a Caddy gets it by one more word when it is built:
//
//	xcaddy build --with github.com/seed-58ac1b1a/caddy-websocket-proxy \
//		--with github.com/seed-58ac1b1a/caddy-websocket-proxy/http2
//
// Go's HTTP/2 servers, that of net/http and that of golang.org/x/net/http2, offer
// extended CONNECT (section 3) only if the environment has GODEBUG=http2xconnect=1 when
// they are initialized: most programs that serve HTTP/2 know nothing of it, and
// browsers would use it (golang/go#71128). It is no setting that //go:debug or a godebug
// line in go.mod could name. So this package sets the variable, when it is initialized
// itself. What GODEBUG has otherwise stays, and if it has http2xconnect already, that
// holds: GODEBUG=http2xconnect=0 switches off what was built in.
//
// That it comes before the servers is a promise of the language. The specification says
// in "Program initialization": of all packages that wait for nothing any more, that comes
// next whose import path sorts first. This one waits for os only, as do, among others,
// both servers, and "github.com/..." sorts before "golang.org/x/net/http2" and before
// "net/http". So the order of --with does not matter. But this package must import nothing
// else, and must not move to a path that sorts after theirs.
//
// The setting is the process's: all its servers offer it, for all sites. Child processes
// inherit the variable, such as commands that a handler of events runs; to programs that
// are not written in Go, or serve no HTTP/2, it means nothing.
package http2

import "os"

const (
	variable = "GODEBUG"
	setting  = "http2xconnect="
	on       = setting + "1"
)

func init() {
	had := os.Getenv(variable)
	if wanted := switchedOn(had); wanted != had {
		_ = os.Setenv(variable, wanted) // fails only for what a variable cannot be
	}
}

// switchedOn adds the setting to those of GODEBUG, unless it is there, whatever it is.
func switchedOn(debug string) string {
	if debug == "" {
		return on
	}
	for start, i := 0, 0; i < len(debug); i++ {
		if debug[i] == ',' {
			start = i + 1
		} else if debug[start:i+1] == setting {
			return debug
		}
	}
	return debug + "," + on
}
