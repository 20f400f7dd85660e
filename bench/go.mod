module github.com/seed-58ac1b1a/caddy-websocket-proxy/bench

go 1.26.0
