// Package observability has the alert and recording rules for Prometheus and the dashboard for Grafana
// that go with the metrics of websocket_proxy, and the tests that judge them. promtool runs the rules over
// simulated days here; package integration has a real Prometheus scrape a real Caddy.
package observability
