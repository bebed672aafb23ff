package ocispec

import (
	"path"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/shimd/shimd/image"
	"github.com/shimd/shimd/runtime/request"
)

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func (g *generator) process() error {
	args, err := processArgs(g.in.Container, g.in.Image)
	if err != nil {
		return err
	}
	cwd, err := workingDir(g.in.Container.WorkingDir, g.in.Image.WorkingDir)
	if err != nil {
		return err
	}
	env, err := g.env()
	if err != nil {
		return err
	}
	adj := g.oomScoreAdj()
	g.spec.Process = &specs.Process{
		Terminal: g.in.Container.TTY,
		User: specs.User{
			UID:            g.in.User.UID,
			GID:            g.in.User.GID,
			AdditionalGids: g.in.User.Groups,
		},
		Args:            args,
		Env:             env,
		Cwd:             cwd,
		NoNewPrivileges: g.sec.NoNewPrivs,
		OOMScoreAdj:     &adj,
		SelinuxLabel:    g.in.ProcessLabel,
	}
	return nil
}

// processArgs follows Kubernetes: a command replaces the image's entry point and its arguments; arguments alone replace only the image's.
func processArgs(c request.Container, img image.Config) ([]string, error) {
	command, args := c.Command, c.Args
	if len(command) == 0 {
		if len(args) == 0 {
			args = img.Cmd
		}
		// Docker wrote an entry point that was reset as one empty string.
		if !(len(img.Entrypoint) == 1 && img.Entrypoint[0] == "") {
			command = img.Entrypoint
		}
	}
	all := append(append([]string{}, command...), args...)
	if len(all) == 0 {
		return nil, invalid("command: neither the request nor the image %q names a program to run", c.Image.Image)
	}
	for _, a := range all {
		if strings.IndexByte(a, 0) >= 0 {
			return nil, invalid("command, args: %q holds a NUL byte", a)
		}
	}
	return all, nil
}

// workingDir takes the request's directory, else the image's. Whether it exists inside the root, and is not a way out through
// /proc/self/fd (CVE-2024-21626), shows only when the process enters it.
func workingDir(requested, img string) (string, error) {
	dir := requested
	if dir == "" {
		// An image may name a relative directory; builders mean it from the root.
		dir = path.Join("/", img)
	}
	if !path.IsAbs(dir) {
		return "", invalid("working_dir: %q is not absolute", dir)
	}
	if strings.IndexByte(dir, 0) >= 0 {
		return "", invalid("working_dir: %q holds a NUL byte", dir)
	}
	return path.Clean(dir), nil
}

// env has, in order of rising precedence: PATH's default, TERM with a terminal, HOSTNAME, the image's variables, the request's; HOME only when nobody else sets it.
func (g *generator) env() ([]string, error) {
	env := environment{}
	env.set("PATH", strings.TrimPrefix(defaultPath, "PATH="))
	if g.in.Container.TTY {
		env.set("TERM", "xterm")
	}
	hostname := g.in.Sandbox.Hostname
	if hostname == "" {
		hostname = g.in.Host.Hostname
	}
	env.set("HOSTNAME", hostname)
	for _, kv := range g.in.Image.Env {
		key, value, ok := strings.Cut(kv, "=")
		if !ok || key == "" || strings.IndexByte(kv, 0) >= 0 {
			g.note("the image's environment variable %q is not KEY=VALUE and was left out", kv)
			continue
		}
		env.set(key, value)
	}
	for _, e := range g.in.Container.Envs {
		if e.Key == "" || strings.ContainsAny(e.Key, "=\x00") || strings.IndexByte(e.Value, 0) >= 0 {
			return nil, invalid("envs: %q is not the name of a variable, or its value holds a NUL byte", e.Key)
		}
		env.set(e.Key, e.Value)
	}
	if !env.has("HOME") {
		home := g.in.User.Home
		if home == "" {
			home = "/"
		}
		env.set("HOME", home)
	}
	return env, nil
}

// environment is a list of KEY=VALUE with each key once.
type environment []string

func (e *environment) set(key, value string) {
	for i, kv := range *e {
		if k, _, _ := strings.Cut(kv, "="); k == key {
			(*e)[i] = key + "=" + value
			return
		}
	}
	*e = append(*e, key+"="+value)
}

func (e environment) has(key string) bool {
	for _, kv := range e {
		if k, _, _ := strings.Cut(kv, "="); k == key {
			return true
		}
	}
	return false
}

// oomScoreAdj is always set, also to zero: the parent of the process has one of its own, which must not be inherited.
func (g *generator) oomScoreAdj() int {
	adj := 0
	if r := g.in.Container.Resources; r != nil {
		adj = int(r.OOMScoreAdj)
	}
	if least := g.in.Host.OOMScoreAdjMin; adj < least {
		g.note("oom_score_adj %d was raised to %d: this daemon lacks CAP_SYS_RESOURCE and may not go below its own", adj, least)
		return least
	}
	return adj
}

// ExecProcess is the process of an exec: as the container's own, with another command. The base is not changed.
func ExecProcess(base *specs.Spec, cmd []string, tty bool) (*specs.Process, error) {
	if len(cmd) == 0 {
		return nil, invalid("cmd: there is no command to run")
	}
	for _, a := range cmd {
		if strings.IndexByte(a, 0) >= 0 {
			return nil, invalid("cmd: %q holds a NUL byte", a)
		}
	}
	p := *base.Process
	p.Args = append([]string{}, cmd...)
	p.Terminal = tty
	p.ConsoleSize = nil
	env := append(environment{}, base.Process.Env...)
	if tty && !env.has("TERM") {
		env.set("TERM", "xterm")
	}
	p.Env = env
	return &p, nil
}
