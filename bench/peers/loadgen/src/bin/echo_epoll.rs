//! Single-threaded epoll echo server: echo_epoll PORT [spin]
fn main() {
    let port: u16 = std::env::args().nth(1).unwrap().parse().unwrap();
    let spin = std::env::args().nth(2).as_deref() == Some("spin");
    unsafe {
        let lim = libc::rlimit { rlim_cur: 1_048_576, rlim_max: 1_048_576 };
        libc::setrlimit(libc::RLIMIT_NOFILE, &lim);
        let s = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0);
        let one = 1i32;
        libc::setsockopt(s, libc::SOL_SOCKET, libc::SO_REUSEADDR, &one as *const _ as *const _, 4);
        let sa = libc::sockaddr_in {
            sin_family: 2,
            sin_port: port.to_be(),
            sin_addr: libc::in_addr { s_addr: 0 },
            sin_zero: [0; 8],
        };
        assert_eq!(libc::bind(s, &sa as *const _ as *const _, 16), 0);
        assert_eq!(libc::listen(s, 65535), 0);
        let ep = libc::epoll_create1(0);
        let mut ev = libc::epoll_event { events: libc::EPOLLIN as u32, u64: s as u64 };
        libc::epoll_ctl(ep, libc::EPOLL_CTL_ADD, s, &mut ev);
        let mut evs = vec![libc::epoll_event { events: 0, u64: 0 }; 512];
        let mut buf = vec![0u8; 65536];
        loop {
            let n = libc::epoll_wait(ep, evs.as_mut_ptr(), 512, if spin { 0 } else { -1 });
            for e in &evs[..n.max(0) as usize] {
                let fd = e.u64 as i32;
                if fd == s {
                    loop {
                        let c = libc::accept4(s, std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_NONBLOCK);
                        if c < 0 {
                            break;
                        }
                        libc::setsockopt(c, libc::IPPROTO_TCP, libc::TCP_NODELAY, &one as *const _ as *const _, 4);
                        let mut ev = libc::epoll_event { events: libc::EPOLLIN as u32, u64: c as u64 };
                        libc::epoll_ctl(ep, libc::EPOLL_CTL_ADD, c, &mut ev);
                    }
                    continue;
                }
                let r = libc::recv(fd, buf.as_mut_ptr() as *mut _, buf.len(), 0);
                if r <= 0 {
                    libc::close(fd);
                    continue;
                }
                libc::send(fd, buf.as_ptr() as *const _, r as usize, libc::MSG_NOSIGNAL);
            }
        }
    }
}
