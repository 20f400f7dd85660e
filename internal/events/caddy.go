package events

import (
	"context"
	"errors"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
)

// Join has events emitted for a configuration, by the module that ctx is for, from when
// Caddy says that all of its apps have been started: before, the events app cannot be
// asked, and what is being loaded may still fail. The caller has to have the outlet
// leave. stopping is called when Caddy is about to stop the configuration's apps.
func (p *Process) Join(ctx caddy.Context, stopping func()) (*Outlet, error) {
	mod, err := ctx.App("events")
	if err != nil {
		return nil, err
	}
	app, ok := mod.(*caddyevents.App)
	if !ok {
		return nil, fmt.Errorf("the app events is a %T", mod)
	}
	emit := func(name string, data map[string]any) { app.Emit(ctx, name, data) }
	o := p.newOutlet(ctx.Logger(), app.ShouldEmit, emit)
	return o, errors.Join(app.On("started", told(o.open)), app.On("stopping", told(stopping)))
}

// told handles events of Caddy's.
type told func()

// Handle implements caddyevents.Handler.
func (f told) Handle(context.Context, caddy.Event) error {
	f()
	return nil
}
