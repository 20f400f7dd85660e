// Command caddy is Caddy with its standard modules and websocket_proxy, for
// people without xcaddy.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/seed-58ac1b1a/caddy-websocket-proxy"
)

func main() {
	caddycmd.Main()
}
