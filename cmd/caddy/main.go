// Command caddy is Caddy with its standard modules, websocket_proxy, and WebSockets
// over HTTP/2, for people without xcaddy.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/seed-58ac1b1a/caddy-websocket-proxy"
	_ "github.com/seed-58ac1b1a/caddy-websocket-proxy/http2"
)

func main() {
	caddycmd.Main()
}
