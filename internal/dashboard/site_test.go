package dashboard

import (
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

func TestWhatStandsInFront(t *testing.T) {
	h := new(Handler)
	auth := new(caddyauth.Authentication)
	forwardAuth := new(reverseproxy.Handler)
	forwardAuth.HandleResponse = make([]caddyhttp.ResponseHandler, 1)
	route := func(handlers ...caddyhttp.MiddlewareHandler) caddyhttp.Route {
		return caddyhttp.Route{Handlers: handlers}
	}
	sub := func(routes ...caddyhttp.Route) *caddyhttp.Subroute { return &caddyhttp.Subroute{Routes: routes} }
	site := func(r caddyhttp.Route) caddyhttp.Route {
		r.MatcherSets = caddyhttp.MatcherSets{{caddyhttp.MatchHost{"example.com"}}}
		return r
	}
	either := site(route(h))
	either.MatcherSets = append(either.MatcherSets, caddyhttp.MatcherSet{caddyhttp.MatchPath{"/"}})
	hosts := func(r caddyhttp.Route, names ...string) caddyhttp.Route {
		r.MatcherSets = caddyhttp.MatcherSets{{caddyhttp.MatchHost(names)}}
		return r
	}
	for name, tc := range map[string]struct {
		routes caddyhttp.RouteList
		want   front
	}{
		"names below one":         {caddyhttp.RouteList{hosts(route(h), "*.example.com")}, front{named: true}},
		"any host":                {caddyhttp.RouteList{hosts(route(h), "*")}, front{}},
		"any host of some labels": {caddyhttp.RouteList{hosts(route(h), "status.*")}, front{}},
		"a host, or any":          {caddyhttp.RouteList{hosts(route(h), "example.com", "*")}, front{}},
		"a placeholder":           {caddyhttp.RouteList{hosts(route(h), "{http.request.host}")}, front{}},
		"a login at any host":     {caddyhttp.RouteList{hosts(route(auth), "*"), route(h)}, front{}},
		"nothing":                 {caddyhttp.RouteList{route(h)}, front{}},
		"a site":                  {caddyhttp.RouteList{site(route(sub(route(h))))}, front{named: true}},
		"a site, or any":          {caddyhttp.RouteList{either}, front{}},
		"basic_auth":              {caddyhttp.RouteList{route(auth, h)}, front{authenticated: true}},
		"behind":                  {caddyhttp.RouteList{route(h, auth)}, front{}},
		"forward_auth":            {caddyhttp.RouteList{site(route(sub(route(forwardAuth), route(sub(route(h))))))}, front{true, true}},
		"in a route of its own":   {caddyhttp.RouteList{route(sub(route(auth))), route(h)}, front{authenticated: true}},
		"for one of two ways":     {caddyhttp.RouteList{site(route(sub(route(auth, h)))), route(sub(route(h)))}, front{}},
		"of another site":         {caddyhttp.RouteList{site(route(sub(route(auth)))), site(route(h))}, front{named: true}},
		"a named route":           {caddyhttp.RouteList{route(auth, &caddyhttp.Invoke{Name: "page"})}, front{authenticated: true}},
		"itself, again and again": {caddyhttp.RouteList{route(h), route(&caddyhttp.Invoke{Name: "storm"})}, front{}},
		"itself":                  {caddyhttp.RouteList{route(&caddyhttp.Invoke{Name: "loop"}), route(h)}, front{}},
	} {
		t.Run(name, func(t *testing.T) {
			page, loop := route(h), route(&caddyhttp.Invoke{Name: "loop"})
			storm := route(&caddyhttp.Invoke{Name: "storm"}, &caddyhttp.Invoke{Name: "storm"})
			s := search{of: h, found: front{true, true}, server: &caddyhttp.Server{
				NamedRoutes: map[string]*caddyhttp.Route{"page": &page, "loop": &loop, "storm": &storm},
			}}
			s.routes(tc.routes, front{})
			if s.found != tc.want || s.ways == 0 {
				t.Errorf("it is %+v by %d ways, want %+v", s.found, s.ways, tc.want)
			}
		})
	}
}

// What handle_errors has is reached by whoever has not been let in, too.
func TestWhatStandsInFrontOfThePageOfErrors(t *testing.T) {
	h, auth := new(Handler), new(caddyauth.Authentication)
	routes := func(handlers ...caddyhttp.MiddlewareHandler) caddyhttp.RouteList {
		return caddyhttp.RouteList{{Handlers: handlers}}
	}
	for name, tc := range map[string]struct {
		routes, errors caddyhttp.RouteList
		want           front
		ways           int
	}{
		"there alone":                 {routes(auth), routes(h), front{}, 1},
		"there alone, behind a login": {routes(), routes(auth, h), front{authenticated: true}, 1},
		"in both":                     {routes(auth, h), routes(h), front{}, 2},
		"in both, behind a login":     {routes(auth, h), routes(auth, h), front{authenticated: true}, 2},
		"not there":                   {routes(auth, h), nil, front{authenticated: true}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			server := &caddyhttp.Server{Routes: tc.routes}
			if tc.errors != nil {
				server.Errors = &caddyhttp.HTTPErrorConfig{Routes: tc.errors}
			}
			s := search{of: h, found: front{true, true}}
			s.look(server)
			if s.found != tc.want || s.ways != tc.ways {
				t.Errorf("it is %+v by %d ways, want %+v by %d", s.found, s.ways, tc.want, tc.ways)
			}
		})
	}
}
