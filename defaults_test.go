package websocketproxy

import (
	"fmt"
	"go/ast"
	"path"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/health"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/settings"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// fieldDocs returns the documentation of the fields of a config struct.
func fieldDocs(tb testing.TB, config reflect.Type) map[string]string {
	tb.Helper()
	docs := make(map[string]string)
	for _, file := range goSources(tb) {
		if name := path.Base(config.PkgPath()); file.Name.Name != name && (config.PkgPath() != modulePath || file.Name.Name != "websocketproxy") {
			continue
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok || spec.Name.Name != config.Name() {
				return true
			}
			if s, ok := spec.Type.(*ast.StructType); ok {
				for _, field := range s.Fields.List {
					for _, name := range field.Names {
						docs[name.Name] = strings.Join(strings.Fields(field.Doc.Text()), " ")
					}
				}
			}
			return false
		})
	}
	return docs
}

var defaultSentence = regexp.MustCompile(`Default: ([^.]|\.[^ ])+\.$`)

func TestEverySettingIsDocumentedWithItsDefault(t *testing.T) {
	required := map[string]bool{"Handler.Upstreams": true, "Upstream.Dial": true, "Label.Name": true, "Label.Value": true, "Rule.At": true, "Agent.Port": true, "HandshakeRate.PerSecond": true}
	for _, config := range configTypes() {
		docs := fieldDocs(t, config)
		for _, field := range jsonFields(config) {
			name, doc := config.Name()+"."+field.Name, docs[field.Name]
			isGroup := field.Type.Kind() == reflect.Pointer && field.Type.Elem().Kind() == reflect.Struct
			switch {
			case doc == "":
				t.Errorf("%s has no documentation", name)
			case regexp.MustCompile(`^` + field.Name + ` (is|are|says|sets|tells|specifies)\b`).MatchString(doc):
				t.Errorf("the documentation of %s begins with its Go name, which users do not see: %s", name, doc)
			case !isGroup && !required[name] && !defaultSentence.MatchString(doc):
				t.Errorf("the documentation of %s does not end with its default: %s", name, doc)
			}
		}
	}
}

// provisioned returns a handler with one upstream after h has been changed.
func provisioned(tb testing.TB, change func(h *Handler)) *Handler {
	tb.Helper()
	h := &Handler{Upstreams: []*Upstream{{Dial: "localhost:9000"}}}
	change(h)
	load(tb, h)
	return h
}

func TestDefaultsAreThoseInTheDocumentation(t *testing.T) {
	h := provisioned(t, func(*Handler) {})
	limited := provisioned(t, func(h *Handler) { h.Timeouts = &Timeouts{MaxLifetime: caddy.Duration(time.Hour)} })
	choosing := provisioned(t, func(h *Handler) {
		h.LoadBalancing = &LoadBalancing{SelectionPolicyRaw: []byte(`{"policy": "random_choose"}`)}
	})
	chooser, _ := choosing.pool.Policy.(*upstream.RandomChoose)
	if got, want := chooser.Choices, settings.DefaultChoices; got != want {
		t.Errorf("random_choose chooses among %d, want %d", got, want)
	}
	if _, ok := h.pool.Policy.(upstream.LeastConn); !ok {
		t.Errorf("the policy is %T, want leastConn", h.pool.Policy)
	}
	if h.tunnelPolicy.MaxLifetime != 0 || h.tunnelPolicy.Ping != 0 || h.tunnelPolicy.MaxMessage != 0 || h.tunnelPolicy.MessageEvery != 0 || h.retry.Duration != 0 || h.pool.Fixed[0].Server.MaxTunnels != 0 {
		t.Errorf("what is off by default is not: %+v, %+v, %+v", h.tunnelPolicy, h.retry, h.pool.Fixed[0].Server)
	}
	limiting := provisioned(t, func(h *Handler) {
		h.Keepalive = &Keepalive{PingInterval: caddy.Duration(30 * time.Second)}
		h.Limits = &Limits{MaxMessageRate: 100}
	}).tunnelPolicy
	if got, want := limiting.PingTimeout, time.Minute; got != want {
		t.Errorf("ping_timeout is %v, want %v", got, want)
	}
	if got, want := limiting.MessageAhead, 99*10*time.Millisecond; got != want || limiting.RefuseFast {
		t.Errorf("the burst is %v ahead (refused: %v), want %v, delayed", got, limiting.RefuseFast, want)
	}
	if h.loaded.Rebalance.Share != 0 {
		t.Error("rebalancing is not off")
	}
	if h.pool.SlowStart != 0 {
		t.Errorf("slow_start is %v, want it off", h.pool.SlowStart)
	}
	rebalancing := provisioned(t, func(h *Handler) {
		h.LoadBalancing = &LoadBalancing{Rebalance: &Rebalance{Share: 0.1}}
	})
	checking := provisioned(t, func(h *Handler) {
		h.HealthChecks = &HealthChecks{Active: &ActiveHealthChecks{Kind: health.HTTP}}
	})
	checks := checking.check.settings
	if h.check != nil || h.evictPolicy.MustPass != "" {
		t.Error("active checks are not off")
	}
	for _, test := range []struct {
		config    reflect.Type
		field     string
		want, got any
	}{
		{reflect.TypeFor[Upstream](), "Weight", settings.DefaultWeight, h.pool.Fixed[0].Server.Weight},
		{reflect.TypeFor[LoadBalancing](), "SelectionPolicyRaw", "least_conn", "least_conn"},
		{reflect.TypeFor[LoadBalancing](), "Retries", settings.DefaultRetries, h.retry.Limit},
		{reflect.TypeFor[LoadBalancing](), "TryInterval", settings.DefaultTryInterval, h.retry.Interval},
		{reflect.TypeFor[Queue](), "Size", settings.DefaultQueueSize, h.pool.Queue.Size},
		{reflect.TypeFor[Queue](), "Timeout", settings.DefaultQueueTimeout, h.pool.Queue.Timeout},
		{reflect.TypeFor[PassiveHealthChecks](), "FailDuration", settings.DefaultFailDuration, h.pool.Passive.Duration},
		{reflect.TypeFor[PassiveHealthChecks](), "MaxFails", settings.DefaultMaxFails, h.pool.Passive.Max},
		{reflect.TypeFor[Rebalance](), "Interval", settings.DefaultRebalanceInterval, rebalancing.loaded.Rebalance.Interval},
		{reflect.TypeFor[ActiveHealthChecks](), "Interval", settings.DefaultHealthInterval, time.Duration(checks.Interval)},
		{reflect.TypeFor[ActiveHealthChecks](), "Timeout", settings.DefaultHealthTimeout, time.Duration(checks.Timeout)},
		{reflect.TypeFor[ActiveHealthChecks](), "Passes", settings.DefaultHealthPasses, checks.Passes},
		{reflect.TypeFor[ActiveHealthChecks](), "Fails", settings.DefaultHealthFails, checks.Fails},
		{reflect.TypeFor[ActiveHealthChecks](), "Method", "GET", checks.Method},
		{reflect.TypeFor[ActiveHealthChecks](), "MaxSize", int64(settings.DefaultHealthMaxSize), checks.MaxSize},
		{reflect.TypeFor[ActiveHealthChecks](), "ExpectStatus", 2, checks.ExpectStatus},
		{reflect.TypeFor[ActiveHealthChecks](), "OnUnhealthy", settings.KeepUnhealthy, checks.OnUnhealthy},
		{reflect.TypeFor[Drain](), "EvictPeriod", defaultEvictPeriod, h.evictPolicy.Period},
		{reflect.TypeFor[Drain](), "ShutdownPeriod", defaultShutdownPeriod, h.tunnelPolicy.Shutdown},
		{reflect.TypeFor[Drain](), "CloseCode", 1012, int(h.evictPolicy.CloseCode)},
		{reflect.TypeFor[Timeouts](), "Handshake", defaultHandshakeTimeout, h.handshake},
		{reflect.TypeFor[Timeouts](), "Idle", defaultIdleTimeout, h.tunnelPolicy.Idle},
		{reflect.TypeFor[Timeouts](), "Write", defaultWriteTimeout, h.tunnelPolicy.Write},
		{reflect.TypeFor[Timeouts](), "HalfClose", defaultHalfCloseTimeout, h.tunnelPolicy.HalfClose},
		{reflect.TypeFor[Timeouts](), "LifetimeJitter", defaultLifetimeJitter, limited.tunnelPolicy.Jitter},
	} {
		if test.got != test.want {
			t.Errorf("%s is %v when nothing is configured, want %v", test.field, test.got, test.want)
		}
		doc := fieldDocs(t, test.config)[test.field]
		if want := "Default: " + spelled(test.want) + "."; !strings.HasSuffix(doc, want) {
			t.Errorf("the documentation of %s does not end with %q: %s", test.field, want, doc)
		}
	}
}

// spelled returns a value as an operator writes it.
func spelled(value any) string {
	s := fmt.Sprint(value)
	if _, ok := value.(time.Duration); ok {
		s = regexp.MustCompile(`([hm])0[ms](0s)?$`).ReplaceAllString(s, "$1")
	}
	return s
}

func TestNegativeMeansOff(t *testing.T) {
	h := provisioned(t, func(h *Handler) {
		h.Upstreams[0].MaxTunnels = -1
		h.LoadBalancing = &LoadBalancing{TryDuration: -1, Rebalance: &Rebalance{Share: -1}}
		h.Timeouts = &Timeouts{Handshake: -1, Idle: -1, Write: -1, HalfClose: -1, MaxLifetime: -1}
		h.Keepalive = &Keepalive{PingInterval: -1}
		h.Limits = &Limits{MaxMessageSize: -1, MaxMessageRate: -1}
	})
	for name, got := range map[string]time.Duration{
		"handshake": h.handshake, "idle": h.tunnelPolicy.Idle, "write": h.tunnelPolicy.Write,
		"half_close": h.tunnelPolicy.HalfClose, "max_lifetime": h.tunnelPolicy.MaxLifetime,
		"try_duration": h.retry.Duration,
	} {
		if got != 0 {
			t.Errorf("%s is %v, want none", name, got)
		}
	}
	if got, want := h.retry.Limit, settings.DefaultRetries; got != want {
		t.Errorf("%d retries, want %d", got, want)
	}
	if p := h.tunnelPolicy; p.Ping != 0 || p.MaxMessage != 0 || p.MessageEvery != 0 {
		t.Errorf("frames are looked at without a limit: %+v", p)
	}
	if h.loaded.Rebalance.Share != 0 {
		t.Error("rebalancing is not off")
	}
	if h.pool.SlowStart != 0 {
		t.Errorf("slow_start is %v, want it off", h.pool.SlowStart)
	}
	c, _ := h.pool.Candidates(nil)
	for range 1000 {
		held := c.Reserve(h.pool.Fixed[0])
		if held == nil {
			t.Fatal("an upstream without limit is full")
		}
		defer process.table.GiveBack(held)
	}

	patient := provisioned(t, func(h *Handler) {
		h.Keepalive = &Keepalive{PingInterval: caddy.Duration(time.Second), PingTimeout: -1}
	})
	if got := patient.tunnelPolicy.PingTimeout; got != 0 {
		t.Errorf("ping_timeout is %v, want none", got)
	}
	rigid := provisioned(t, func(h *Handler) {
		h.Timeouts = &Timeouts{MaxLifetime: caddy.Duration(time.Hour), LifetimeJitter: -1}
	})
	if got := rigid.tunnelPolicy.Jitter; got != 0 {
		t.Errorf("jitter is %v, want none", got)
	}
}

func TestTryDurationLiftsTheLimitOfRetries(t *testing.T) {
	two := 2
	for name, test := range map[string]struct {
		lb   LoadBalancing
		want int
	}{
		"try_duration":             {LoadBalancing{TryDuration: caddy.Duration(time.Second)}, -1},
		"try_duration and retries": {LoadBalancing{TryDuration: caddy.Duration(time.Second), Retries: &two}, 2},
		"retries":                  {LoadBalancing{Retries: &two}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := settings.NewRetry(&test.lb)
			if err != nil || r.Limit != test.want {
				t.Errorf("the limit is %d (%v), want %d", r.Limit, err, test.want)
			}
		})
	}
}
