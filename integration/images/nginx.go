package images

import (
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const nginxConfig = `user nginx;
worker_processes auto;
error_log /var/log/nginx/error.log notice;
pid /run/nginx.pid;

events {
    worker_connections 1024;
}

http {
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    access_log /var/log/nginx/access.log;
    sendfile on;
    keepalive_timeout 65;
    include /etc/nginx/conf.d/*.conf;
}
`

const nginxSite = `server {
    listen 80;
    listen [::]:80;
    server_name localhost;

    location / {
        root /usr/share/nginx/html;
        index index.html index.htm;
    }
}
`

const nginxPage = `<!DOCTYPE html>
<html>
<head><title>Welcome to nginx!</title></head>
<body>
<h1>Welcome to nginx!</h1>
<p>This image stands for nginx:%s.</p>
</body>
</html>
`

// nginx is Debian's nginx, arranged as the published image of that name: configuration, page and logs are in the same places. Its page says the
// version that the image stands for, so that an update shows.
func nginx(version string) recipe {
	return onShell(recipe{
		packages: []string{"nginx"},
		without:  append(noScripts(), "iproute2"),
		files: []file{
			{path: "/etc/passwd", body: []byte(passwd + "nginx:x:101:101:nginx user:/nonexistent:/bin/false\n")},
			{path: "/etc/group", body: []byte(group + "nginx:x:101:\n")},
			{path: "/etc/nginx/nginx.conf", body: []byte(nginxConfig)},
			{path: "/etc/nginx/conf.d/default.conf", body: []byte(nginxSite)},
			{path: "/usr/share/nginx/html/index.html", body: fmt.Appendf(nil, nginxPage, version)},
			{path: "/var/log/nginx/access.log", symlink: "/dev/stdout"},
			{path: "/var/log/nginx/error.log", symlink: "/dev/stderr"},
			{path: "/var/cache/nginx", dir: true},
		},
		config: v1.Config{
			Cmd:          []string{"nginx", "-g", "daemon off;"},
			StopSignal:   "SIGQUIT",
			ExposedPorts: ports("80/tcp"),
		},
	})
}
