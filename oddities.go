package websocketproxy

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// fewBytes is what a limit for messages rather lacks its unit below.
const fewBytes = 1 << 10

// oddity is a setting, by its path in JSON, that can be meant so but hardly is.
type oddity struct{ setting, problem string }

// logOddities writes a line for each when the configuration is loaded.
func (h *Handler) logOddities(ctx caddy.Context) error {
	for _, odd := range h.oddities(ctx) {
		fields := []zap.Field{zap.String("setting", odd.setting)}
		if option, ok := syntax.OptionOf(odd.setting); ok {
			fields = append(fields, zap.String("option", option))
		}
		if h.Name != "" {
			fields = append(fields, zap.String("handler", h.Name))
		}
		h.logger.Warn("setting is taken, but is rather a mistake", append(fields, zap.String("problem", odd.problem))...)
	}
	return nil
}

func (h *Handler) oddities(ctx caddy.Context) []oddity {
	var found []oddity
	add := func(setting, format string, args ...any) {
		found = append(found, oddity{setting, fmt.Sprintf(format, args...)})
	}
	nanoseconds := func(setting string, d time.Duration) {
		if d > 0 && d < time.Millisecond {
			add(setting, `is %v; a number in JSON counts nanoseconds, so write it with a unit, such as "30s"`, d)
		}
	}
	visitDurations(reflect.ValueOf(h), "", nanoseconds)
	visitDurations(reflect.ValueOf(h.transport.http), "transport.", nanoseconds)
	p := h.tunnelPolicy
	if p.Ping > 0 && p.Idle > 0 && p.Ping >= p.Idle {
		add("keepalive.ping_interval", "is %v, but a tunnel that is silent ends after %v, by timeouts.idle; "+
			"make that longer, or this shorter", p.Ping, p.Idle)
	}
	if p.MaxMessage > 0 && p.MaxMessage < fewBytes {
		add("limits.max_message_size", "is %d bytes; write a unit if another one is meant, such as %dKiB in a Caddyfile",
			p.MaxMessage, p.MaxMessage)
	}
	if h.perClient > 0 && believesClients(ctx) {
		add("limits.max_tunnels_per_client", "counts by the first address in X-Forwarded-For, which a client can "+
			"choose if a trusted proxy adds to the field; set trusted_proxies_strict beside the server's trusted_proxies")
	}
	return found
}

// visitDurations calls visit for the durations in a configuration, with their paths.
func visitDurations(v reflect.Value, prefix string, visit func(path string, d time.Duration)) {
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return
	}
	for f, value := range v.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || name == "" || name == "-" {
			continue
		}
		if d, ok := reflect.TypeAssert[caddy.Duration](value); ok {
			visit(prefix+name, time.Duration(d))
		}
		visitDurations(value, prefix+name+".", visit)
	}
}

// believesClients reports whether the server takes the client's address from where
// also a client can write it: the left of a list that proxies append to. Of the
// trusted proxies, Caddy does not export whether there are any.
func believesClients(ctx caddy.Context) bool {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || server.TrustedProxiesStrict > 0 {
		return false
	}
	isAppended := func(field string) bool { return strings.EqualFold(field, "X-Forwarded-For") }
	if !slices.ContainsFunc(server.ClientIPHeaders, isAppended) {
		return false
	}
	trusted := reflect.ValueOf(server).Elem().FieldByName("trustedProxies")
	return server.TrustedProxiesUnix || trusted.IsValid() && !trusted.IsNil()
}
