package main

import "testing"

func TestShell(t *testing.T) {
	for _, c := range []struct {
		environment []string
		want        string
	}{
		{nil, busybox},
		{[]string{"PATH=/bin", "SOME_SERVICE_PORT_80_TCP=tcp://10.0.0.1:80"}, busybox},
		{[]string{"PATH=/bin", "data-1=value"}, bash},
		{[]string{"p.data=value"}, bash},
		{[]string{"CONFIG=with-dash"}, busybox},
	} {
		if got := shell(c.environment); got != c.want {
			t.Errorf("%q: %s", c.environment, got)
		}
	}
}
